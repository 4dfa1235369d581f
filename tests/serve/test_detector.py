"""The first deployment, without Ray around it."""

import pickle
from pathlib import Path

import numpy as np
import torch

from fireedit.models.pipeline import FireEditPipeline
from fireedit.serve.detector import DetectorDeployment
from fireedit.serve.part import WeightsConfig


def test_result_is_pickled_without_the_rest_of_its_batch(weights: Path, photos: list[np.ndarray]) -> None:
    config = WeightsConfig(weights=str(weights), precision="bf16")
    detector = DetectorDeployment(config, max_batch_size=4, batch_wait_s=0)
    loaded = {name for name, part in detector.pipeline.components.items() if part is not None}
    assert loaded == set(FireEditPipeline.PERCEIVING)
    assert {parameter.dtype for parameter in detector.pipeline.region_encoder.parameters()} == {torch.bfloat16}
    (single,) = detector.run(photos[:1])
    batch = detector.run(photos * 2)
    assert len(batch) == 6
    for percepts in batch:
        assert len(percepts) == 1 and len(pickle.dumps(percepts)) < 1.5 * len(pickle.dumps(single))
