"""What an edit changes, as the sets with masks tell it: where, and what one then sees there."""

import numpy as np

from fireedit.platform.scenes.edits import Edit


def region(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[H, W] bool: the pixels in which two [H, W, 3] pictures differ."""
    return (before != after).any(axis=-1)


def seen_there(edit: Edit) -> str:
    """What is where the edit was done, in a few words: "red car", or what stood behind a thing that is gone."""
    for placed in edit.target.objects:
        if placed.id in edit.edited:
            return placed.noun
    reflected = any(placed.reflection for placed in edit.source.objects if placed.id in edit.edited)
    return "mirror" if reflected else edit.target.background
