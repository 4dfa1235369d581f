"""Smaller batches are padded to a size that is compiled, larger ones run as they are."""

from typing import Any

import torch
from torch import Tensor

from fireedit.models.fixed_batches import FixedBatches


def test_batches_are_padded_and_results_cut() -> None:
    calls: dict[str, list[int]] = {"compiled": [], "plain": []}

    def call(kind: str, x: Tensor, nested: Any, scale: float) -> tuple[Tensor, dict[str, Tensor]]:
        calls[kind].append(len(x))
        assert all(len(each) == len(x) for each in nested[0])
        return x * scale, {"sum": x + nested[0][1]}

    batches = FixedBatches(lambda *args: call("compiled", *args), lambda *args: call("plain", *args), (6, 3))
    for count in (1, 3, 4, 7):
        x = torch.arange(count * 2.0).view(count, 2)
        doubled, named = batches(x, [(x, x), None], 2.0)
        assert torch.equal(doubled, 2 * x) and torch.equal(named["sum"], 2 * x)
    assert calls == {"compiled": [3, 3, 6], "plain": [7]}
