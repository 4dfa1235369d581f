"""Sheets of pictures with titles, boxes and texts."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 8
TITLE_HEIGHT = 24
LINE_HEIGHT = 18
GAP = 4
"""Pixels between the pictures of a card, and around its text."""
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
    ImageDraw.Draw(page).text((0, 3), _fitted(panel.title, picture.width), fill=INK, font=_font())
    return page


def _card(card: Card, side: int) -> Image.Image:
    width = 2 * side + GAP
    lines = _wrapped(card.words, width - 2 * GAP, LINES if card.panels else MOST_LINES)
    top = TITLE_HEIGHT + LINE_HEIGHT * max(len(lines), LINES) + 2 * GAP
    page = Image.new("RGB", (width, top + side if card.panels else top), PAPER)
    _write(page, (0, TITLE_HEIGHT), lines)
    page.paste(_bar(card, width), (0, 0))
    for place, panel in enumerate(card.panels):
        page.paste(_squared(panel, side), (place * (side + GAP), top))
    if len(card.panels) == 1:
        beside = Image.new("RGB", (side, side), EMPTY)
        _write(beside, (0, 0), _wrapped(card.aside, side - 2 * GAP, side // LINE_HEIGHT))
        page.paste(beside, (side + GAP, top))
    return page


def _bar(card: Card, width: int) -> Image.Image:
    bar, font = Image.new("RGB", (width, TITLE_HEIGHT), card.color), _font()
    pen, note = ImageDraw.Draw(bar), width - GAP - font.getlength(card.note)
    pen.text((GAP, 3), _fitted(card.title, note - 3 * GAP), fill=PAPER, font=font)
    pen.text((note, 3), card.note, fill=PAPER, font=font)
    return bar


def _squared(panel: Panel, side: int) -> Image.Image:
    """Draw the panel's picture in the middle of a square."""
    height, width = panel.image.shape[:2]
    picture = _picture(panel, (round(width * side / max(height, width)), round(height * side / max(height, width))))
    square = Image.new("RGB", (side, side), EMPTY)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _picture(panel: Panel, size: tuple[int, int]) -> Image.Image:
    """Draw the panel's picture at this width and height, with its boxes."""
    (width, height), font = size, _font()
    picture = Image.fromarray(panel.image).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for index, (left, top, right, bottom) in enumerate(panel.boxes):
        frame = [left * (width - 1), top * (height - 1), right * (width - 1), bottom * (height - 1)]
        pen.rectangle(frame, outline=FRAME, width=2)
        if index < len(panel.scores):
            pen.text((frame[0] + 4, frame[1] + 2), f"{panel.scores[index]:.2f}", fill=FRAME, font=font)
    return picture


def _write(page: Image.Image, corner: tuple[int, int], lines: Sequence[str]) -> None:
    pen, (left, top) = ImageDraw.Draw(page), corner
    for number, line in enumerate(lines):
        pen.text((left + GAP, top + GAP + number * LINE_HEIGHT), line, fill=INK, font=_font())


def _wrapped(text: str, width: float, lines: int) -> list[str]:
    """Break `text` into at most `lines` lines of `width` pixels."""
    rest, wrapped = text.split(), list[str]()
    while rest and len(wrapped) < lines - 1:
        count = 1
        while count < len(rest) and _font().getlength(" ".join(rest[: count + 1])) <= width:
            count += 1
        wrapped.append(_fitted(" ".join(rest[:count]), width))
        rest = rest[count:]
    return [*wrapped, _fitted(" ".join(rest), width)] if rest else wrapped


def _fitted(text: str, width: float) -> str:
    """Cut `text` with an ellipsis where it is wider than `width` pixels."""
    font = _font()
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=14)
