"""The first deployment, without Ray around it."""

import pickle
from pathlib import Path

import numpy as np

from fireedit.serve.detector import DetectorDeployment
from fireedit.serve.part import WeightsConfig


def test_result_is_pickled_without_the_rest_of_its_batch(weights: Path, photos: list[np.ndarray]) -> None:
    detector = DetectorDeployment(WeightsConfig(weights=str(weights)), max_batch_size=4, batch_wait_s=0)
    (single,) = detector.run(photos[:1])
    batch = detector.run(photos * 2)
    assert len(batch) == 6
    for percepts in batch:
        assert len(percepts) == 1 and len(pickle.dumps(percepts)) < 1.5 * len(pickle.dumps(single))
