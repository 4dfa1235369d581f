"""Segmentation as an edit: the instruction asks for a thing to be painted over, half transparent.

Source: InstructDiffusion and SmartEdit turn COCO-Stuff, RefCOCO and gRefCOCO into edits this way; the wording is ours.
"""

import random

import numpy as np

COLORS = {
    "red": (255, 0, 0),
    "purple": (128, 0, 128),
    "blue": (0, 0, 255),
    "green": (0, 128, 0),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
}

REQUESTS = (
    "Cover {object} with {color} and keep everything else as it is.",
    "Tint {object} {color}; nothing else may change.",
    "Lay a {color} film over {object} only.",
    "Show me where {object} is by painting it {color}.",
    "Highlight {object} in {color}, leaving the other pixels alone.",
    "Put a {color} overlay on every pixel of {object}.",
    "Segment {object}: paint it {color} and touch nothing else.",
    "Shade the area of {object} in {color} without changing the rest.",
    "Find {object} and color it {color}, the rest stays the same.",
    "Use {color} to point out {object} in this picture.",
    "Which pixels belong to {object}? Mark them in {color}.",
)

KEEP_REQUESTS = ("Leave this picture as it is.", "Do not change anything here.", "Keep the picture unchanged.")
"""For a picture in which nothing is labelled."""


def request(rng: random.Random, thing: str) -> tuple[str, str]:
    """An instruction to paint `thing`, and the name of the colour that it asks for."""
    color = rng.choice(list(COLORS))
    return rng.choice(REQUESTS).format(object=thing, color=color), color


def box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of an [H, W] bool mask's true part, in [0, 1] of its sides; it must not be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    left, right = int(columns[0]) / width, (int(columns[-1]) + 1) / width
    return left, int(rows[0]) / height, right, (int(rows[-1]) + 1) / height


def paint(image: np.ndarray, mask: np.ndarray, color: str) -> np.ndarray:
    """[H, W, 3] uint8 with the colour blended in by half where the [H, W] bool mask is set, equal elsewhere."""
    painted = image.copy()
    painted[mask] = (image[mask].astype(np.uint16) + np.array(COLORS[color], np.uint16)) // 2
    return painted
