import random

import numpy as np

from fireedit.platform.data.corpora import segmentation


def test_every_request_names_the_thing_and_the_colour() -> None:
    assert len(set(segmentation.REQUESTS)) == 11
    for text in segmentation.REQUESTS:
        assert "{object}" in text and "{color}" in text


def test_a_request_tells_the_colour_that_it_asks_for() -> None:
    for seed in range(50):
        instruction, color = segmentation.request(random.Random(seed), "the dog")
        assert "the dog" in instruction and color in instruction


def test_a_box_holds_all_of_a_mask_and_no_more() -> None:
    mask = np.zeros((4, 10), bool)
    mask[1, 2] = mask[2, 7] = True
    assert segmentation.box(mask) == (0.2, 0.25, 0.8, 0.75)


def test_paint_blends_by_half_inside_the_mask_only() -> None:
    image = np.full((4, 4, 3), 101, np.uint8)
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = True
    painted = segmentation.paint(image, mask, "red")
    assert painted[1, 2].tolist() == [178, 50, 50]
    assert (painted[~mask] == 101).all() and (image == 101).all()
