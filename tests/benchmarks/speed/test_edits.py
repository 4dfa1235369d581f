"""Switches of the benchmark leave the pipeline as it was; operations are counted without values."""

import pytest
import torch

from fireedit.benchmarks.speed.edits import Edits, sizes, step_flops
from fireedit.models.speed import SpeedConfig


def test_operations_of_the_papers_step_are_counted() -> None:
    assert step_flops(sizes(tiny=False)) == pytest.approx(2.414e12, rel=0.01)


def test_switches_are_taken_back() -> None:
    edits = Edits.fresh(sizes(tiny=True), torch.device("cpu"), torch.float32)
    unet = edits.pipeline.unet
    with edits.switched(SpeedConfig(channels_last=True, compile=("unet",), backend="eager", prefixes=1)):
        assert unet._compiled_call_impl is not None and edits.pipeline.prefixes is not None
        assert not unet.conv_in.weight.is_contiguous()
    assert unet._compiled_call_impl is None and edits.pipeline.prefixes is None and unet.conv_in.weight.is_contiguous()
    assert edits.pipeline.speed == SpeedConfig(share_keys=False)
    taken = edits.latency(2, repeats=1)
    assert taken["edit_s"] == pytest.approx(sum(value for name, value in taken.items() if name[-2:] == "_s") / 2)
