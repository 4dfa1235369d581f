"""The region encoder has Groma's size, agrees with its pyramid written out, and keeps images apart."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fireedit.models.layers.boxes import to_cxcywh, to_xyxy
from fireedit.models.layers.roi_align import roi_align
from fireedit.models.region_encoder import RegionEncoder, RegionEncoderConfig
from tests.factories import features_of

NANO = RegionEncoderConfig(width=96, width_out=192, fuse_blocks=2, groups=16, roi_size=4, token_width=128, box_width=64)


def build(groma_compat: bool = False) -> RegionEncoder:
    torch.manual_seed(0)
    return RegionEncoder(dataclasses.replace(NANO, groma_compat=groma_compat)).eval()


@pytest.fixture
def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 96, 8, 8, generator=generator) for _ in range(3)]


@pytest.fixture
def boxes() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    sizes = torch.tensor([0.4, 0.4, 0.5, 0.5])
    return [to_xyxy(torch.rand(count, 4, generator=generator) * sizes + 0.25) for count in (3, 5)]


def resize(features: Tensor, side: int) -> Tensor:
    return F.interpolate(features, size=(side, side), mode="bilinear", align_corners=True)


def plain_steps(encoder: RegionEncoder, maps: list[Tensor], boxes: Tensor, cut: Tensor, stride: float) -> Tensor:
    """Compute Groma's pyramid for one image and three levels of [C, 8, 8]; `cut` in pixels of 112 x 112."""
    large, middle, small = (resize(level[None], side) for level, side in zip(maps, (32, 16, 8), strict=True))
    levels = []
    for index, level in enumerate((large, middle, small)):
        side = level.shape[-1]
        ramp = torch.linspace(-1, 1, side)
        x, y = ramp[None, :].expand(side, side), ramp[:, None].expand(side, side)
        levels.append(encoder.mlvl_fuse.input_conv[index](torch.cat([level, x[None, None], y[None, None]], dim=1)))
    for block in encoder.mlvl_fuse.fuse_convs:
        large, middle, small = levels
        mixed = [
            torch.cat([large[:, :48], resize(middle[:, 72:], 32), large[:, 48:72]], dim=1),
            torch.cat([middle[:, :48], resize(small[:, 72:], 16), resize(large[:, 48:72], 16)], dim=1),
            torch.cat([small[:, :48], small[:, 72:], resize(middle[:, 48:72], 8)], dim=1),
        ]
        levels = [F.relu(block.gn(block.conv(level))) for level in mixed]
    image_of_each = torch.zeros(len(boxes), dtype=torch.int64)
    pooling, total = encoder.roi_align, torch.zeros(len(boxes), 96, 4, 4)
    for index, level in enumerate(levels):
        scale = 1 / (stride * 2**index)
        total = total + pooling.pconvs[index](roi_align(level, cut, image_of_each, 4, scale))
    token = pooling.flatten_linear(F.relu(total).flatten(1)) + pooling.pos_embedd(to_cxcywh(boxes))
    return pooling.updims(token)


@torch.no_grad()
def test_regions_agree_with_the_plain_steps(maps: list[Tensor], boxes: list[Tensor]) -> None:
    encoder = build()
    for index, tokens in enumerate(encoder(features_of(*maps), boxes)):
        # 8 x 8 cells of 14 pixels; the largest level has a quarter of that stride.
        image_maps = [level[index] for level in maps]
        expected = plain_steps(encoder, image_maps, boxes[index], boxes[index] * 112, stride=14 / 4)
        torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_groma_compat_repeats_both_errors_and_no_other(maps: list[Tensor], boxes: list[Tensor]) -> None:
    encoder = build(groma_compat=True)
    for index, tokens in enumerate(encoder(features_of(*maps), boxes)):
        converted = to_cxcywh(boxes[index]) * 112
        expected = plain_steps(encoder, [level[index] for level in maps], boxes[index], converted, stride=14 / 8)
        torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter(maps: list[Tensor], boxes: list[Tensor]) -> None:
    encoder = build()
    torch.cat(encoder(features_of(*maps), boxes)).square().sum().backward()
    assert [name for name, weight in encoder.named_parameters() if not weight.grad.abs().sum() > 0] == []


@torch.no_grad()
def test_bfloat16_weights_give_tokens_close_by(maps: list[Tensor], boxes: list[Tensor]) -> None:
    encoder = build()
    exact = torch.cat(encoder(features_of(*maps), boxes))
    rounded = torch.cat(encoder.bfloat16()(features_of(*(level.bfloat16() for level in maps)), boxes))
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0)
