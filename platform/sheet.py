"""Sheets of pictures with titles, boxes and texts."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

MARGIN = 8
TITLE_HEIGHT = 24
LINE_HEIGHT = 18
CHARACTER_WIDTH = 7
"""Pixels of a character, a little more than their mean."""
GAP = 4
"""Pixels between the pictures of a card, between lines and around text."""
LINES = 2
"""Lines of text above a card's pictures."""
MOST_LINES = 8
"""Most lines of a card that has no picture."""
INK, PAPER, FRAME, EMPTY = (24, 24, 28), (255, 255, 255), (255, 45, 130), (241, 241, 244)

RGB = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Picture of a sheet, with a title and boxes."""

    image: np.ndarray
    """uint8 RGB [H, W, 3]."""
    title: str = ""
    """Text above the picture; ignored on a card."""
    boxes: Sequence[Sequence[float]] = ()
    """xyxy in [0, 1] of the picture's sides, drawn as frames."""
    scores: Sequence[float] = ()
    """Score of each box, written beside it; or none."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Up to two pictures that belong together, below a colored bar and a text."""

    title: str
    """Text at the left of the bar."""
    note: str
    """Text at the right of the bar."""
    color: RGB
    """Color of the bar."""
    words: str
    """Text above the pictures."""
    panels: Sequence[Panel] = ()
    aside: str = ""
    """Text beside a single picture."""


def sheet(panels: Sequence[Panel], columns: int, height: int) -> Image.Image:
    """Draw panels row by row, every picture `height` pixels high."""
    return _page([_titled(panel, height) for panel in panels], columns)


def card_sheet(cards: Sequence[Card], columns: int, side: int) -> Image.Image:
    """Draw cards row by row, every picture as large as a square of `side` pixels holds it."""
    return _page([_card(card, side) for card in cards], columns)


def _page(drawn: Sequence[Image.Image], columns: int) -> Image.Image:
    """Lay pictures out in columns as wide as the widest, and rows each as high as its highest."""
    rows = [drawn[first : first + columns] for first in range(0, len(drawn), columns)]
    width, heights = max(image.width for image in drawn), [max(image.height for image in row) for row in rows]
    size = (columns * (width + MARGIN) + MARGIN, sum(heights) + MARGIN * (len(rows) + 1))
    page, top = Image.new("RGB", size, PAPER), MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            page.paste(image, (MARGIN + column * (width + MARGIN), top))
        top += height + MARGIN
    return page


def _titled(panel: Panel, height: int) -> Image.Image:
    picture = _picture(panel, (round(panel.image.shape[1] * height / panel.image.shape[0]), height))
    page = Image.new("RGB", (picture.width, height + TITLE_HEIGHT), PAPER)
    page.paste(picture, (0, TITLE_HEIGHT))
    _pen(page).text((0, 3), "".join(_wrapped(panel.title, picture.width, 1)), fill=INK)
    return page


def _card(card: Card, side: int) -> Image.Image:
    width = 2 * side + GAP
    lines = _wrapped(card.words, width - 2 * GAP, LINES if card.panels else MOST_LINES)
    top = TITLE_HEIGHT + LINE_HEIGHT * max(len(lines), LINES) + 2 * GAP
    page = Image.new("RGB", (width, top + side if card.panels else top), PAPER)
    pen = _pen(page)
    pen.rectangle((0, 0, width, TITLE_HEIGHT - 1), fill=card.color)
    pen.text((GAP, 3), card.title, fill=PAPER)
    pen.text((width - GAP, 3), card.note, fill=PAPER, anchor="ra")
    pen.multiline_text((GAP, TITLE_HEIGHT + GAP), "\n".join(lines), fill=INK, spacing=GAP)
    for place, panel in enumerate(card.panels):
        square = ImageOps.pad(_picture(panel, (side, side)), (side, side), color=EMPTY)
        page.paste(square, (place * (side + GAP), top))
    if len(card.panels) == 1:
        beside = _wrapped(card.aside, side - 2 * GAP, side // LINE_HEIGHT)
        pen.rectangle((side + GAP, top, width, top + side), fill=EMPTY)
        pen.multiline_text((side + 2 * GAP, top + GAP), "\n".join(beside), fill=INK, spacing=GAP)
    return page


def _picture(panel: Panel, size: tuple[int, int]) -> Image.Image:
    """Draw the panel's picture as large as it fits into a width and height, with its boxes."""
    picture = ImageOps.contain(Image.fromarray(panel.image), size)
    pen, (right, bottom) = _pen(picture), (picture.width - 1, picture.height - 1)
    for index, box in enumerate(panel.boxes):
        frame = [share * end for share, end in zip(box, (right, bottom, right, bottom), strict=True)]
        pen.rectangle(frame, outline=FRAME, width=2)
        if index < len(panel.scores):
            pen.text((frame[0] + 4, frame[1] + 2), f"{panel.scores[index]:.2f}", fill=FRAME)
    return picture


def _pen(page: Image.Image) -> ImageDraw.ImageDraw:
    pen = ImageDraw.Draw(page)
    pen.font = ImageFont.load_default(size=14)
    return pen


def _wrapped(text: str, width: int, lines: int) -> list[str]:
    """Break `text` into at most `lines` lines of about `width` pixels; an ellipsis stands for the rest."""
    return textwrap.wrap(text, max(width // CHARACTER_WIDTH, 4), max_lines=lines, placeholder="...")
