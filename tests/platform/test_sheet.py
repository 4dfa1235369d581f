"""A sheet shows every panel, its boxes where they belong."""

import numpy as np

from fireedit.platform.sheet import FRAME, MARGIN, TITLE_HEIGHT, Panel, sheet


def test_panels_stand_in_rows_with_their_boxes() -> None:
    grey = np.full((20, 40, 3), 128, np.uint8)
    boxed = Panel(image=grey, title="boxed", boxes=[(0.25, 0.5, 0.75, 1.0)], scores=[0.5])
    page = np.asarray(sheet([boxed, Panel(image=grey, title="plain " * 40), boxed], columns=2, height=100))
    cell_width, cell_height = 200 + MARGIN, 100 + TITLE_HEIGHT + MARGIN
    assert page.shape == (2 * cell_height + MARGIN, 2 * cell_width + MARGIN, 3)
    left, top = MARGIN + 50, MARGIN + TITLE_HEIGHT + 50
    assert tuple(page[top, left + 30]) == FRAME, "the frame's upper edge"
    second = page[MARGIN + TITLE_HEIGHT : MARGIN + TITLE_HEIGHT + 100, cell_width + MARGIN : cell_width + MARGIN + 200]
    assert (second == 128).all(), "a picture without boxes is drawn as it is, whatever its title"
