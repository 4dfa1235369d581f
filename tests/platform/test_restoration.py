"""Edits of a canvas, brought back to the source's size."""

import numpy as np
import pytest
from PIL import Image

from fireedit.platform import images
from fireedit.platform.restoration import Edit, canvas_size, restore

SIDE, CELLS = 32, 8


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def recolored(source: images.Picture, *cells: tuple[int, int]) -> Edit:
    """Make these cells of the canvas brighter by 40."""
    canvas = source.canvas(SIDE) // 2
    changed = np.zeros((CELLS, CELLS), bool)
    for cell in cells:
        changed[cell] = True
    grown = np.kron(changed, np.ones((SIDE // CELLS, SIDE // CELLS), np.uint8))[..., None]
    return Edit(canvas, (canvas + 40 * grown).astype(np.uint8), changed)


@pytest.mark.parametrize("size", [(333, 200), (200, 333), (SIDE, SIDE), (20, 12), (1, 1)])
def test_unchanged_cells_keep_every_pixel_of_the_source(size: tuple[int, int]) -> None:
    pixels = noise(*size[::-1])
    source = images.Picture(pixels)
    np.testing.assert_array_equal(restore(source, recolored(source)), pixels)
    result = restore(source, recolored(source, (2, 3), (2, 4)))
    rows, columns = (((np.arange(n) + 0.5) / n * CELLS).astype(int) for n in pixels.shape[:2])
    outside = ~np.outer(rows == 2, (columns == 3) | (columns == 4))
    np.testing.assert_array_equal(result[outside], pixels[outside])


def test_a_changed_cell_takes_the_residual_and_keeps_the_sources_detail() -> None:
    fine = 100 + noise(320, 320) % 8
    source = images.Picture(fine)
    canvas = source.canvas(SIDE)
    changed = np.ones((CELLS, CELLS), bool)
    result = restore(source, Edit(canvas, canvas + 50, changed))
    assert np.abs(result.astype(int) - (fine.astype(int) + 50)).max() <= 1


def test_replaced_structure_takes_its_fine_detail_with_it() -> None:
    """A removed disk leaves no outline."""
    y, x = np.mgrid[0:320, 0:320]
    scene = np.full((320, 320, 3), 200, np.uint8)
    scene[(y - 160) ** 2 + (x - 160) ** 2 < 80**2] = 20
    source = images.Picture(scene)
    canvas = source.canvas(SIDE)
    removed = np.full_like(canvas, 200)
    result = restore(source, Edit(canvas, removed, np.ones((CELLS, CELLS), bool)))
    assert np.abs(result.astype(int) - 200).mean() < 4 and np.abs(result.astype(int) - 200).max() < 80


def test_a_canvas_of_the_sources_size_is_the_result_where_it_is_changed() -> None:
    source = images.Picture(noise(SIDE, SIDE))
    edited, changed = noise(SIDE, SIDE, seed=1), np.random.default_rng(0).random((CELLS, CELLS)) < 0.5
    result = restore(source, Edit(source.canvas(SIDE), edited, changed))
    inside = np.kron(changed, np.ones((4, 4))) > 0
    np.testing.assert_array_equal(result[inside], edited[inside])


@pytest.mark.parametrize("shown", [64, 128, 255])
def test_a_mask_keeps_pixels_and_lets_others_change_by_degrees(shown: int) -> None:
    pixels = np.full((64, 96, 3), 100, np.uint8)
    source = images.Picture(pixels)
    mask = np.zeros((64, 96), np.uint8)
    mask[10:40, 20:60] = shown
    canvas = source.canvas(SIDE)
    result = restore(source, Edit(canvas, canvas + 100, np.ones((CELLS, CELLS), bool)), mask=mask)
    assert (result[mask == 0] == 100).all() and (np.abs(result[mask > 0] - (100 + 100 * shown / 255.0)) <= 1).all()


def test_transparency_is_kept_or_laid_over_a_ground() -> None:
    pixels = noise(40, 60, 4)
    source = images.Picture(pixels)
    kept = restore(source, recolored(source, (1, 1)))
    np.testing.assert_array_equal(kept[..., 3], pixels[..., 3])
    np.testing.assert_array_equal(kept[20:], pixels[20:])
    flat = restore(source, recolored(source), ground=images.WHITE)
    white = Image.new("RGBA", (60, 40), "white")
    np.testing.assert_array_equal(flat, np.asarray(Image.alpha_composite(white, Image.fromarray(pixels)))[..., :3])


def test_large_pictures_are_restored_band_by_band_without_seams() -> None:
    smooth = np.linspace(0, 200, 2200 * 1000).reshape(2200, 1000, 1).repeat(3, 2).astype(np.uint8)
    source = images.Picture(smooth)
    canvas = source.canvas(SIDE)
    edited = np.clip(canvas.astype(int) + 30 * np.sin(np.arange(SIDE))[:, None, None], 0, 255).astype(np.uint8)
    result = restore(source, Edit(canvas, edited, np.ones((CELLS, CELLS), bool)))
    assert np.abs(np.diff(result[..., 0].astype(int), axis=0)).max() <= 3


@pytest.mark.parametrize(
    ("size", "part"), [((30, 20), slice(0, 60)), ((20, 20), slice(10, 50)), ((90, 60), slice(0, 60))]
)
def test_a_size_of_another_aspect_shows_the_center(size: tuple[int, int], part: slice) -> None:
    pixels = noise(40, 60)
    source = images.Picture(pixels)
    result = restore(source, recolored(source), size)
    assert result.shape == (size[1], size[0], 3)
    cropped = images.resize(np.ascontiguousarray(pixels[:, part]), *size)
    np.testing.assert_array_equal(result[:, 2:-2], cropped[:, 2:-2])  # the cut edge has neighbors


@pytest.mark.parametrize(
    ("source", "edited"),
    [((80, 60), (80, 60)), ((200, 100), (128, 64)), ((30, 90), (30, 90)), ((100, 400), (64, 256)), ((1, 1), (1, 1))],
)
def test_a_canvas_size_keeps_the_aspect_and_never_grows(source: tuple[int, int], edited: tuple[int, int]) -> None:
    assert canvas_size(source, 64) == edited
