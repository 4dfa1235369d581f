"""Loading of the weights, which the model deployments share."""

from pathlib import Path

import torch

from fireedit.models.pipeline import FireEditPipeline
from fireedit.serve.part import WeightsConfig, load


def test_only_the_named_components_are_loaded(weights: Path) -> None:
    pipeline = load(FireEditPipeline.UNDERSTANDING, WeightsConfig(weights=str(weights), precision="bf16"))
    loaded = {name for name, part in pipeline.components.items() if part is not None}
    assert loaded == set(FireEditPipeline.UNDERSTANDING)
    assert {parameter.dtype for parameter in pipeline.vlm.parameters()} == {torch.bfloat16}
