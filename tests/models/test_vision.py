"""Vision tower: raw states, Groma's 2 x 2 merge, and detail sources at one resolution or two."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fireedit.models.model import preset
from fireedit.models.vision import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Sources,
    Vision,
    VisionConfig,
    merge_patches,
)
from tests.factories import PAPERLIKE, picture, shaken


@pytest.fixture(scope="module")
def vision() -> Vision:
    """Vision tower whose layer scales and norms differ from one; read only."""
    torch.manual_seed(0)
    return shaken(Vision(preset("nano").vision)).eval()


@pytest.fixture(scope="module")
def view() -> Tensor:
    return torch.stack([torch.from_numpy(picture(seed, 64, 64)) for seed in range(2)])


def normalised(view: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    pixels = view.permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@torch.no_grad()
def test_maps_are_the_last_four_raw_states_without_the_class_token(vision: Vision, view: Tensor) -> None:
    maps = vision(view).maps
    states = vision.dino(normalised(view, IMAGENET_MEAN, IMAGENET_STD), output_hidden_states=True)
    assert len(maps) == 4
    for actual, expected in zip(maps, states.hidden_states[-4:], strict=True):
        assert torch.allclose(actual.flatten(2).transpose(1, 2), expected[:, 1:], atol=1e-5)
    deepest = maps[-1].flatten(2).transpose(1, 2)
    assert torch.allclose(vision.dino.layernorm(deepest), states.last_hidden_state[:, 1:], atol=1e-5)
    assert not torch.allclose(deepest, states.last_hidden_state[:, 1:], atol=1e-2), "raw: before the final norm"


@torch.no_grad()
def test_image_tokens_are_the_merged_deepest_map(vision: Vision, view: Tensor) -> None:
    features = vision(view)
    assert torch.equal(features.image_tokens, merge_patches(features.maps[-1]))
    assert features.image_tokens.shape == (2, 16, 4 * 96) and features.detail == ()


def test_the_merge_puts_the_lower_patch_before_the_right_one() -> None:
    features = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    merged = merge_patches(features)
    token = 0
    for top in range(0, 4, 2):
        for left in range(0, 6, 2):
            corners = [(top, left), (top + 1, left), (top, left + 1), (top + 1, left + 1)]
            assert torch.equal(merged[:, token], torch.cat([features[:, :, y, x] for y, x in corners], dim=1))
            token += 1
    assert merged.shape == (2, token, 12)


@torch.no_grad()
def test_details_come_from_both_encoders_at_two_sizes(vision: Vision, view: Tensor) -> None:
    detail = vision(view, detail="both").detail
    assert [tuple(source.shape) for source in detail] == [(2, 16, 96), (2, 64, 96), (2, 16, 96), (2, 64, 96)]
    clip = vision.clip(
        normalised(view, CLIP_MEAN, CLIP_STD), output_hidden_states=True, interpolate_pos_encoding=True
    ).hidden_states[-2]
    assert torch.allclose(detail[1], clip[:, 1:], atol=1e-5)
    dino = vision.dino(normalised(view, IMAGENET_MEAN, IMAGENET_STD)).last_hidden_state
    assert torch.allclose(detail[3], dino[:, 1:], atol=1e-5)


@torch.no_grad()
def test_the_coarse_sources_encode_the_image_at_half_its_size(vision: Vision, view: Tensor) -> None:
    small = F.interpolate(view.permute(0, 3, 1, 2) / 255, size=(32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    detail = vision(view, detail="both").detail
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.allclose(detail[2], vision.dino((small - mean) / std).last_hidden_state[:, 1:], atol=1e-5)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    clip = vision.clip((small - mean) / std, output_hidden_states=True).hidden_states[-2]
    assert torch.allclose(detail[0], clip[:, 1:], atol=1e-5), "CLIP's own size: nothing is interpolated"


@torch.no_grad()
@pytest.mark.parametrize(
    ("detail", "places", "dino", "clip"),
    [(None, (), [64], []), ("coarse", (0, 2), [64, 32], [32]), ("fine", (1, 3), [64], [64])],
)
def test_features_that_nobody_reads_are_not_computed(
    vision: Vision, view: Tensor, detail: Sources | None, places: tuple[int, ...], dino: list[int], clip: list[int]
) -> None:
    sides: dict[str, list[int]] = {"dino": [], "clip": []}
    hooks = [
        getattr(vision, name).register_forward_pre_hook(lambda _, inputs, own=own: own.append(inputs[0].shape[-1]))
        for name, own in sides.items()
    ]
    alone = vision(view, detail=detail)
    for hook in hooks:
        hook.remove()
    assert sides == {"dino": dino, "clip": clip}
    both = vision(view, detail="both")
    assert len(alone.detail) == len(places) and torch.equal(alone.image_tokens, both.image_tokens)
    assert all(torch.equal(own, both.detail[place]) for own, place in zip(alone.detail, places, strict=True))


def test_paper_sizes_give_256_image_tokens_and_2560_details() -> None:
    with torch.device("meta"):
        vision = Vision(VisionConfig())
        view = torch.empty(1, 448, 448, 3, dtype=torch.uint8)
        features = {sources: vision(view, detail=sources) for sources in get_args(Sources)}
    assert features["both"].image_tokens.shape == (1, 256, 4096)
    lengths = {sources: [source.shape[1] for source in each.detail] for sources, each in features.items()}
    assert lengths == {"both": [256, 1024, 256, 1024], "coarse": [256, 256], "fine": [1024, 1024]}


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 3, 64, 64), torch.uint8), ((1, 32, 32, 3), torch.uint8), ((1, 64, 64, 3), torch.float32)],
)
def test_views_of_another_shape_or_dtype_are_refused(
    vision: Vision, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    with pytest.raises(AssertionError):
        vision(torch.zeros(shape, dtype=dtype))


def interpolated_by_432(table: Tensor, height: int, width: int) -> Tensor:
    """Interpolate DINOv2's table [1, 1 + 37 * 37, W] to cells as transformers 4.32: by a factor, with 0.1 added.

    A plain bicubic: Catmull-Rom's family with a = -0.75, edges repeated, source = (target + 1/2) / factor - 1/2.
    """
    grid, rows = table[0, 1:].unflatten(0, (37, 37)).double(), []

    def cubic(distance: float) -> float:
        a, x = -0.75, abs(distance)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    def taps(target: int, count: int) -> list[tuple[int, float]]:
        source = (target + 0.5) / ((count + 0.1) / math.sqrt(37 * 37)) - 0.5
        first = math.floor(source) - 1
        return [(min(max(first + tap, 0), 36), cubic(source - first - tap)) for tap in range(4)]

    for y in range(height):
        for x in range(width):
            weighted = [(v * u) * grid[j, i] for j, v in taps(y, height) for i, u in taps(x, width)]
            rows.append(torch.stack(weighted).sum(dim=0))
    return torch.cat([table[0, :1].double(), torch.stack(rows)])[None]


@torch.no_grad()
def test_groma_compat_interpolates_positions_as_transformers_432() -> None:
    torch.manual_seed(0)
    config = PAPERLIKE.vision
    plain, compat = Vision(config).eval(), Vision(replace(config, groma_compat=True)).eval()
    compat.load_state_dict(plain.state_dict())
    table, pixels = compat.dino.embeddings.position_embeddings, torch.empty(1, 1 + 8 * 8, 64)
    for side in (8, 4):
        expected = interpolated_by_432(table, side, side)
        found = compat.dino.embeddings.interpolate_pos_encoding(pixels, 14 * side, 14 * side)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        by_size = plain.dino.embeddings.interpolate_pos_encoding(pixels, 14 * side, 14 * side)
        assert (found - by_size).abs().max() > 0.01
    whole = compat.dino.embeddings.interpolate_pos_encoding(torch.empty(1, 1 + 37 * 37, 64), 518, 518)
    assert torch.equal(whole, table), "at its own size nothing is interpolated"
    view = torch.from_numpy(picture(1, 112, 112))[None]
    assert not torch.allclose(compat(view).maps[-1], plain(view).maps[-1], atol=1e-4)
