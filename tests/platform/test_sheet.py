"""Sheets show every panel and card, with boxes in their places."""

import numpy as np

from fireedit.platform.sheet import (
    EMPTY,
    FRAME,
    GAP,
    INK,
    LINE_HEIGHT,
    LINES,
    MARGIN,
    PAPER,
    TITLE_HEIGHT,
    Card,
    Panel,
    card_sheet,
    sheet,
)

GREY = np.full((20, 40, 3), 128, np.uint8)
SIDE, BAR = 100, (10, 60, 110)
TOP = MARGIN + TITLE_HEIGHT + LINES * LINE_HEIGHT + 2 * GAP
"""Top of the pictures of the first row's cards, pixels."""


def drawn(*cards: Card) -> np.ndarray:
    return np.asarray(card_sheet(cards, columns=2, side=SIDE))


def card(*panels: Panel, words: str = "few words", aside: str = "") -> Card:
    return Card(title="left", note="right", color=BAR, words=words, panels=panels, aside=aside)


def test_panels_stand_in_rows_with_their_boxes() -> None:
    boxed = Panel(image=GREY, title="boxed", boxes=[(0.25, 0.5, 0.75, 1.0)], scores=[0.5])
    page = np.asarray(sheet([boxed, Panel(image=GREY, title="plain " * 40), boxed], columns=2, height=100))
    cell_width, cell_height = 200 + MARGIN, 100 + TITLE_HEIGHT + MARGIN
    assert page.shape == (2 * cell_height + MARGIN, 2 * cell_width + MARGIN, 3)
    left, top = MARGIN + 50, MARGIN + TITLE_HEIGHT + 50
    assert tuple(page[top, left + 30]) == FRAME, "the frame's upper edge"
    second = page[MARGIN + TITLE_HEIGHT : MARGIN + TITLE_HEIGHT + 100, cell_width + MARGIN : cell_width + MARGIN + 200]
    assert (second == 128).all(), "a picture without boxes is drawn as it is, whatever its title"


def test_a_card_shows_pictures_of_any_shape_side_by_side_in_squares() -> None:
    tall = Panel(image=np.full((40, 20, 3), 200, np.uint8))
    page = drawn(card(Panel(image=GREY), tall))
    assert page.shape[:2] == (TOP + SIDE + MARGIN, 2 * (2 * SIDE + GAP + MARGIN) + MARGIN)
    first, second = (page[TOP:, left:][:SIDE, :SIDE] for left in (MARGIN, MARGIN + SIDE + GAP))
    assert (first[25:75] == 128).all() and (first[:25] == EMPTY).all() and (first[75:] == EMPTY).all()
    assert (second[:, 25:75] == 200).all() and (second[:, :25] == EMPTY).all()
    assert tuple(page[MARGIN, MARGIN]) == BAR == tuple(page[MARGIN + TITLE_HEIGHT - 1, MARGIN + 2 * SIDE + GAP - 1])


def test_words_take_the_lines_they_need_and_no_pictures_place() -> None:
    pair, long = (Panel(image=GREY), Panel(image=GREY)), "many words " * 60
    short_words, long_words = drawn(card(*pair)), drawn(card(*pair, words=long))
    assert short_words.shape == long_words.shape and (short_words[TOP:] == long_words[TOP:]).all()
    second_line = slice(MARGIN + TITLE_HEIGHT + GAP + LINE_HEIGHT, TOP)
    assert (short_words[second_line] == PAPER).all() and (long_words[second_line] == INK).all(axis=-1).any()

    lone = drawn(card(words="few words")), drawn(card(words=long))
    assert lone[0].shape[0] < lone[1].shape[0] < long_words.shape[0] + SIDE, "words alone get more lines, up to a limit"


def test_a_text_beside_a_single_picture_takes_the_second_ones_place() -> None:
    page = drawn(card(Panel(image=GREY), aside="a word"))
    beside = page[TOP:, MARGIN + SIDE + GAP :][:SIDE, :SIDE]
    assert (beside[: LINE_HEIGHT + GAP] == INK).all(axis=-1).any() and (beside[LINE_HEIGHT + GAP :] == EMPTY).all()


def test_rows_are_as_high_as_their_highest_card() -> None:
    wordy, pictured = card(), card(Panel(image=GREY))
    low, high = TOP - MARGIN, TOP - MARGIN + SIDE
    assert drawn(wordy, wordy, wordy, pictured).shape[0] == low + high + 3 * MARGIN
