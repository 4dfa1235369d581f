"""Layers that compute a sample alike in any batch."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from fireedit.models.layers.invariant import InvariantConv2d, InvariantLinear, attend, linear, make_invariant


def converted(layer: nn.Module) -> nn.Module:
    sequence = nn.Sequential(layer)
    make_invariant(sequence)
    return sequence


@torch.no_grad()
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(320, 80), (320,)),
        (nn.Linear(96, 144, bias=False), (77, 96)),
        (nn.Linear(5, 7), (3, 4, 5)),
        (nn.Conv2d(80, 144, 3, padding=1), (80, 16, 16)),
        (nn.Conv2d(224, 80, 1), (224, 8, 8)),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), (4, 9, 9)),
    ],
)
def test_a_sample_is_the_same_in_any_batch(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(24, *shape)
    usual = layer(x)
    invariant = converted(layer)
    whole = invariant(x)
    assert torch.allclose(whole, usual, atol=1e-5)
    for start, end in ((0, 1), (1, 4), (5, 17)):
        assert torch.equal(invariant(x[start:end]), whole[start:end])


@torch.no_grad()
def test_attention_is_torchs(size: int = 32) -> None:
    attention = nn.MultiheadAttention(size, 4, batch_first=True)
    queries, keys = torch.randn(6, 5, size), torch.randn(6, 9, size)
    whole = attend(attention, queries, keys)
    assert torch.allclose(whole, attention(queries, keys, keys, need_weights=False)[0], atol=1e-6)
    assert torch.equal(attend(attention, queries[:1], keys[:1]), whole[:1])


def test_training_and_other_precisions_use_the_usual_kernels() -> None:
    weight, bias, x = torch.randn(7, 5), torch.randn(7), torch.randn(4, 5)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    layer = converted(nn.Conv2d(3, 4, 3))
    layer(torch.randn(1, 3, 5, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    with torch.no_grad():
        halves: list[Tensor] = [each.bfloat16() for each in (x, weight, bias)]
        assert torch.equal(linear(*halves), F.linear(*halves))


def test_conversion_keeps_weights_and_their_names() -> None:
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    before = vae.state_dict()
    make_invariant(vae)
    assert list(vae.state_dict()) == list(before)
    kinds = {type(module) for module in vae.modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    assert kinds == {InvariantLinear, InvariantConv2d}
