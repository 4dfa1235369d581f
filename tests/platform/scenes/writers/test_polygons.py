import numpy as np
from pycocotools import mask as coco_mask

from fireedit.platform.scenes import families, world
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.writers.polygons import polygons


def drawn(outlines: list[list[float]], height: int, width: int) -> np.ndarray:
    return coco_mask.decode(coco_mask.frPyObjects(outlines, height, width)).any(axis=-1)


def test_pycocotools_draws_the_masks_of_scenes_without_a_differing_pixel() -> None:
    for seed in range(20):
        for mask in draw_scene(families.make_edit(world.TRAIN, seed).source, 64).masks.values():
            np.testing.assert_array_equal(drawn(polygons(mask), 64, 64), mask)


def test_holes_and_pixels_that_touch_at_a_corner_are_kept() -> None:
    for seed in range(30):
        mask = np.random.default_rng(seed).random((9, 11)) < 0.6
        np.testing.assert_array_equal(drawn(polygons(mask), 9, 11), mask)


def test_an_empty_mask_has_no_outline() -> None:
    assert polygons(np.zeros((4, 4), bool)) == []
