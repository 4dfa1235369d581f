"""Location of an edit and a caption of it, as the corpora with masks give them."""

import numpy as np

from fireedit.platform.scenes.edits import Edit


def region(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the [H, W] bool mask of the pixels in which two [H, W, 3] pictures differ."""
    return (before != after).any(axis=-1)


def local_caption(edit: Edit) -> str:
    """Name the edited place after the edit: "red car", or the background of a removed object."""
    for placed in edit.target.objects:
        if placed.id in edit.edited:
            return placed.noun
    reflected = any(placed.reflection for placed in edit.source.objects if placed.id in edit.edited)
    return "mirror" if reflected else edit.target.background
