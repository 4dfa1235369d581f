"""Editors behind one protocol, by name: FireEdit, the systems it is compared with, and baselines.

Imports neither torch nor diffusers: an editor's file is imported when it is loaded.
"""

import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from fireedit.models.settings import PaintSettings


class EditorError(ValueError):
    """Editor, folder or setting that cannot be used; the message says what to write instead."""


class Editor(Protocol):
    """System that edits pictures by instructions."""

    name: str
    """Name of the system, such as `magicbrush`."""
    weights: str
    """Fingerprint of its weights; empty without weights."""
    settings: PaintSettings
    """Sampler settings that the system was published with."""

    def edit(
        self, pictures: Sequence[np.ndarray], instructions: Sequence[str], seeds: Sequence[int], settings: PaintSettings
    ) -> list[np.ndarray]:
        """Edit B pictures, uint8 RGB [H, W, 3] of any sizes, each from noise of its own seed.

        Returns:
            uint8 RGB [h, w, 3] of the sizes that the system paints, the same in any batch.
        Raises:
            EditorError: the system does not have one of the settings.
        """


EDITORS = {
    "fireedit": "fireedit:load",
    "instruct-pix2pix": "instruct_pix2pix:load",
    "magicbrush": "magicbrush:load",
    "hq-edit": "hq_edit:load",
    "hq-edit-code": "hq_edit:load_as_in_code",
    "ultraedit": "ultraedit:load",
    "smartedit": "smartedit:load",
    "copy": "baselines:load_copy",
    "vae": "baselines:load_reconstruction",
}
"""Function that loads each editor, in this folder: from a folder of weights to a device."""
WITHOUT_WEIGHTS = ("copy",)
"""Editors that take no folder."""


@dataclass(frozen=True)
class EditorName:
    """Editor of the command line: `NAME=FOLDER`, or `NAME` where none is needed."""

    name: str
    folder: str
    """Absolute, as other processes load the editor too; or `nano`, or empty."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the words of the command line.

        Raises:
            EditorError: the editor is unknown, or its folder is missing.
        """
        name, _, folder = text.partition("=")
        if name not in EDITORS:
            raise EditorError(f"--editor {text}: {name!r} is no editor; write one of {', '.join(EDITORS)}")
        if not folder and name not in WITHOUT_WEIGHTS:
            raise EditorError(f"--editor {text}: found no folder of weights; write --editor {name}=FOLDER")
        return cls(name, folder if folder in ("", "nano") else str(Path(folder).expanduser().absolute()))


def load_editor(name: EditorName, device: str = "cpu") -> Editor:
    """Load an editor in float32.

    Raises:
        CheckpointFileError: a file of its folder is missing, damaged or not what its name says.
        WeightsError: tensors of its folder do not fit.
    """
    load = pkgutil.resolve_name(f"fireedit.models.editors.{EDITORS[name.name]}")
    return load(Path(name.folder) if name.folder not in ("", "nano") else name.folder, device)


def require_unchanged(editor: Editor, settings: PaintSettings, *names: str) -> None:
    """Raise EditorError if settings that the system does not have differ from its own."""
    for name in names:
        if (value := getattr(settings, name)) != (own := getattr(editor.settings, name)):
            raise EditorError(f"{editor.name} has no {name}: found {value!r}; leave it at {own!r}")
