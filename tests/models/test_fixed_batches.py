"""Smaller batches are padded to a size that is compiled, larger ones run as they are; strides are always the same."""

from typing import Any

import pytest
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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_strides_are_the_same_padded_or_not_whatever_the_inputs(layout: torch.memory_format) -> None:
    seen = set[Any]()

    def call(latents: Tensor, tokens: Tensor) -> Tensor:
        seen.add((latents.stride(), tokens.stride()))
        return latents

    batches = FixedBatches(call, call, (4,), layout)
    for count in (1, 3, 4):
        latents, last_tokens = torch.randn(count, 3, 5, 6), torch.randn(count, 7, 8)[:, -1]
        for given in (latents, latents.to(memory_format=torch.channels_last), latents[:1].expand(count, -1, -1, -1)):
            assert torch.equal(batches(given, last_tokens), given)
    assert seen == {(torch.empty(4, 3, 5, 6, memory_format=layout).stride(), (8, 1))}
