"""Pictures side by side on one sheet, with titles and boxes: what a person looks at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 8
TITLE_HEIGHT = 24
INK, PAPER, FRAME = (24, 24, 28), (255, 255, 255), (255, 45, 130)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a sheet."""

    image: np.ndarray
    """uint8 RGB [H, W, 3]."""
    title: str
    boxes: Sequence[Sequence[float]] = ()
    """xyxy in [0, 1] of the picture's sides, drawn as frames."""
    scores: Sequence[float] = ()
    """As many as boxes, written beside them; or none."""


def sheet(panels: Sequence[Panel], columns: int, height: int) -> Image.Image:
    """Draw panels row by row, every picture `height` pixels high."""
    drawn = [_draw(panel, height) for panel in panels]
    width = max(panel.width for panel in drawn)
    rows = -(-len(drawn) // columns)
    cell = (width + MARGIN, height + TITLE_HEIGHT + MARGIN)
    page = Image.new("RGB", (columns * cell[0] + MARGIN, rows * cell[1] + MARGIN), PAPER)
    for index, panel in enumerate(drawn):
        row, column = divmod(index, columns)
        page.paste(panel, (MARGIN + column * cell[0], MARGIN + row * cell[1]))
    return page


def _draw(panel: Panel, height: int) -> Image.Image:
    source = Image.fromarray(panel.image)
    width = round(source.width * height / source.height)
    picture = Image.new("RGB", (width, height + TITLE_HEIGHT), PAPER)
    picture.paste(source.resize((width, height), Image.Resampling.BICUBIC), (0, TITLE_HEIGHT))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=14)
    pen.text((0, 3), _fitted(panel.title, font, width), fill=INK, font=font)
    for index, (left, top, right, bottom) in enumerate(panel.boxes):
        frame = [left * width, top * height + TITLE_HEIGHT, right * width, bottom * height + TITLE_HEIGHT]
        pen.rectangle(frame, outline=FRAME, width=2)
        if index < len(panel.scores):
            pen.text((frame[0] + 4, frame[1] + 2), f"{panel.scores[index]:.2f}", fill=FRAME, font=font)
    return picture


def _fitted(text: str, font: Any, width: int) -> str:
    """`text`, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
