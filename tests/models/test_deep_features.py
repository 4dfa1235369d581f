"""A step that keeps its deep features predicts as any other; one that reuses them runs two blocks alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fireedit.models.deep_features import DeepFeatures
from fireedit.models.model import preset
from fireedit.models.unet import EditUNet, UNetConfig
from tests.factories import PAPERLIKE, shaken


@torch.no_grad()
@pytest.mark.parametrize("config", [PAPERLIKE.unet, preset("nano").unet], ids=["paperlike", "nano"])
def test_deep_features_of_the_same_step_give_the_same_prediction(config: UNetConfig) -> None:
    torch.manual_seed(0)
    unet, side, width = shaken(EditUNet(config).eval(), scale=0.02), config.sample_size, config.cross_attention_dim
    noisy, source = torch.randn(2, 2, config.out_channels, side, side)
    inputs: tuple[Any, ...] = (noisy, source, torch.tensor([3.0, 801.5]), torch.randn(2, 77, width))
    detail, deep, ran = torch.randn(2, 16, width), DeepFeatures(), list[int]()
    for index, block in enumerate([*unet.down_blocks, unet.mid_block, *unet.up_blocks]):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    expected, blocks = unet.predict(*inputs, detail), list(ran)
    assert torch.equal(unet.predict(*inputs, detail, deep=deep), expected) and ran == 2 * blocks
    assert torch.equal(unet.predict(*inputs, detail, deep=deep), expected)
    assert ran[2 * len(blocks) :] == [blocks[0], blocks[-1]]


@torch.no_grad()
def test_uneven_sides_are_as_diffusers() -> None:
    torch.manual_seed(0)
    unet = shaken(EditUNet(replace(PAPERLIKE.unet, sample_size=9)).eval(), scale=0.02)
    noisy, tokens = torch.randn(1, 4, 9, 10), torch.randn(1, 77, 64)
    inputs = (noisy, noisy, torch.tensor([7]), tokens, None)
    assert torch.equal(unet.predict(*inputs, deep=DeepFeatures()), unet.predict(*inputs))
