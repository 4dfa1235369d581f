"""Editors behind one protocol, by name: FireEdit, the systems it is compared with, and baselines.

Imports neither torch nor diffusers: an editor's file is imported when it is loaded.
"""

import pkgutil
from collections.abc import Mapping, Sequence
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
NANO = "nano"
"""Word for the folder of weights that ships."""
WITH_NANO = ("fireedit", "instruct-pix2pix", "vae")
"""Editors that take it."""
PUBLISHED, OWN = "StableDiffusionInstructPix2PixPipeline", "FireEditPipeline"
PIPELINES: Mapping[str, tuple[str, ...]] = {
    "fireedit": (OWN,),
    "instruct-pix2pix": (PUBLISHED, OWN),
    "magicbrush": (PUBLISHED,),
    "hq-edit": (PUBLISHED,),
    "hq-edit-code": (PUBLISHED,),
    "ultraedit": ("StableDiffusion3InstructPix2PixPipeline", "StableDiffusion3Pipeline"),
    "smartedit": (),
}
"""Pipelines, by their classes in model_index.json, that each editor takes; the others take any."""


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
            EditorError: the editor is unknown, or its folder is missing or not one that it takes.
            CheckpointFileError: the folder's model_index.json is damaged.
        """
        name, _, folder = text.partition("=")
        if name not in EDITORS:
            known = f"{', '.join(EDITORS)}, or for jobs/evaluate.py folder=PICTURES"
            raise EditorError(f"--editor {text}: {name!r} is no editor; write one of {known}")
        if not folder and name not in WITHOUT_WEIGHTS:
            raise EditorError(f"--editor {text}: found no folder of weights; write --editor {name}=FOLDER")
        if folder and name in WITHOUT_WEIGHTS:
            raise EditorError(f"--editor {text}: {name} takes no folder; write --editor {name}")
        if "://" in folder:
            raise EditorError(f"--editor {text}: found an address; copy the folder to this machine and write its path")
        parsed = cls(name, folder if folder in ("", NANO) else str(Path(folder).expanduser().absolute()))
        parsed.check()
        return parsed

    def check(self) -> None:
        """Raise EditorError unless the folder is there and one that the editor takes."""
        if self.folder not in ("", NANO) and not Path(self.folder).is_dir():
            raise EditorError(f"{self.folder}: no such folder; write one that is there in --editor {self.name}=FOLDER")
        require_pipeline(self.name, self.folder)


def load_editor(name: EditorName, device: str = "cpu") -> Editor:
    """Load an editor in float32.

    Raises:
        EditorError: its folder is missing, or not one that it takes.
        ValueError: torch does not have the device.
        CheckpointFileError: a file of its folder is missing, damaged or not what its name says.
        WeightsError: tensors of its folder do not fit.
    """
    from fireedit.models.layers.device import require_device  # imports torch

    require_device(device)
    load = pkgutil.resolve_name(f"fireedit.models.editors.{EDITORS[name.name]}")
    name.check()
    return load(name.folder if name.folder in ("", NANO) else Path(name.folder), device)


def require_pipeline(editor: str, folder: Path | str) -> None:
    """Raise EditorError if the editor does not take a folder, by the pipeline in its model_index.json, or `nano`."""
    if folder == NANO and editor not in WITH_NANO:
        raise EditorError(f"{editor} has no weights that ship; write --editor {editor}=FOLDER")
    index = Path(folder) / "model_index.json"
    if editor not in PIPELINES or folder in ("", NANO) or not index.is_file():
        return
    from fireedit.models.checkpoint_files import read_json  # imports torch

    require_taken(editor, str(folder), read_json(index, "_class_name")["_class_name"])


def require_taken(editor: str, folder: str, kind: str | None) -> None:
    """Raise EditorError, which names the editors that do, unless an editor takes a pipeline of the class `kind`."""
    if kind not in PIPELINES[editor]:
        takers = " or ".join(name for name, kinds in PIPELINES.items() if kind in kinds)
        instead = f"give it to the editor {takers}" if takers else "docs/evaluation.md says which folders it takes"
        raise EditorError(f"{folder}: found a pipeline of class {kind}, which {editor} does not take; {instead}")


def require_unchanged(editor: Editor, settings: PaintSettings, *names: str) -> None:
    """Raise EditorError if settings that the system does not have differ from its own."""
    for name in names:
        if (value := getattr(settings, name)) != (own := getattr(editor.settings, name)):
            raise EditorError(f"{editor.name} has no {name}: found {value!r}; leave it at {own!r}")
