"""The first deployment, without Ray around it."""

import pickle
from pathlib import Path

import numpy as np

from fireedit.serve.detector import Detector
from fireedit.serve.part import WeightsConfig


def test_what_is_handed_on_does_not_drag_the_batch_along(weights: Path, photos: list[np.ndarray]) -> None:
    detector = Detector(WeightsConfig(weights=str(weights)), max_batch_size=4, batch_wait_s=0)
    (alone,) = detector._perceive(photos[:1])
    together = detector._perceive(photos * 2)
    assert len(together) == 6
    for one in together:
        assert len(one) == 1 and len(pickle.dumps(one)) < 1.5 * len(pickle.dumps(alone))
