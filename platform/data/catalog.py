"""Catalog of the published corpora: reader and license of each, and the writers of procedural scenes in its forms."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable
from pathlib import Path

from fireedit.platform import storage
from fireedit.platform.data.corpora import (
    cc12m,
    cocostuff,
    emu_edit,
    instructpix2pix,
    llava_instruct,
    magicbrush,
    reasonedit,
    refcoco,
    rows,
    ultraedit,
)
from fireedit.platform.data.corpora.rows import Corpus, CorpusError
from fireedit.platform.scenes.world import World
from fireedit.platform.scenes.writers import cc12m as cc12m_scenes
from fireedit.platform.scenes.writers import cocostuff as cocostuff_scenes
from fireedit.platform.scenes.writers import emu_edit as emu_edit_scenes
from fireedit.platform.scenes.writers import instructpix2pix as instructpix2pix_scenes
from fireedit.platform.scenes.writers import llava_instruct as llava_instruct_scenes
from fireedit.platform.scenes.writers import magicbrush as magicbrush_scenes
from fireedit.platform.scenes.writers import reasonedit as reasonedit_scenes
from fireedit.platform.scenes.writers import refcoco as refcoco_scenes
from fireedit.platform.scenes.writers import ultraedit as ultraedit_scenes

Reader = Callable[[str, str], Corpus]
"""Opens a split of one corpus's published files in a folder."""
Writer = Callable[[Path, Iterable[int], int, World], None]
"""Writes the scenes of these seeds into a folder as the files of one corpus, pictures of this size in pixels."""


class UnknownCorpusError(ValueError):
    """Name that no entry has; the message names the nearest ones."""


@dataclasses.dataclass(frozen=True)
class SceneForm:
    """Form of a corpus's files that procedural scenes are written in."""

    write: Writer
    seed_block: int
    """Block of each world's seeds that the scenes are drawn from: never changed once scenes were written, and used by
    no other form."""

    def seeds(self, world: World) -> range:
        """Return the form's block of a world's seeds."""
        size = len(world.seeds) // MOST_SEED_BLOCKS
        return world.seeds[self.seed_block * size : (self.seed_block + 1) * size]


@dataclasses.dataclass(frozen=True)
class CatalogEntry:
    """Declaration of one corpus."""

    name: str
    read: Reader
    license: str
    """Terms of its annotations and pictures, as its page states them."""
    training: bool = True
    """False for a test set."""
    any_aspect: bool = False
    """True if its targets may have other aspects than their sources, as its publisher loads each by itself."""
    held_out: str = ""
    """Split, with targets, that runs are validated on; empty where none is published."""


MOST_SEED_BLOCKS = 20
"""Blocks that the seeds of each world are cut into, so that no two corpora show the same scene."""

_COCO = "pictures: Flickr's terms"
_CC12M = "captions: may be used for any purpose, as is (Google); pictures: their owners'"
_INSTRUCTPIX2PIX = "MIT for the code; data under Stable Diffusion's license"


_ENTRIES = (
    CatalogEntry("cc12m", cc12m.read, _CC12M),
    CatalogEntry("instructpix2pix", instructpix2pix.read, _INSTRUCTPIX2PIX),
    CatalogEntry("cocostuff", cocostuff.read, f"annotations: CC BY 4.0; {_COCO}", held_out="val"),
    CatalogEntry("llava_instruct", llava_instruct.read, f"CC BY 4.0, and OpenAI's terms; {_COCO}"),
    *(
        CatalogEntry(name, functools.partial(refcoco.read, corpus=name), f"none stated; {_COCO}", held_out="val")
        for name in ("refcoco", "refcoco+", "refcocog", "grefcoco")
    ),
    CatalogEntry(
        "magicbrush",
        magicbrush.read,
        "CC BY 4.0; the test split must not be passed on unpacked",
        any_aspect=True,
        held_out="dev",
    ),
    CatalogEntry("ultraedit", ultraedit.read, "CC BY 4.0"),
    CatalogEntry("reasonedit", reasonedit.read, "none stated", any_aspect=True),
    CatalogEntry("emu_edit", emu_edit.read, "CC BY-NC 4.0", training=False),
)
CORPORA: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}
TRAINING_CORPORA = tuple(entry.name for entry in _ENTRIES if entry.training)
SCENE_FORMS = {
    "cc12m": SceneForm(cc12m_scenes.write, 0),
    "cc12m:tars": SceneForm(cc12m_scenes.write_webdataset, 11),
    "instructpix2pix": SceneForm(instructpix2pix_scenes.write, 1),
    "instructpix2pix:folders": SceneForm(instructpix2pix_scenes.write_folders, 12),
    "instructpix2pix:zips": SceneForm(instructpix2pix_scenes.write_zips, 13),
    "cocostuff": SceneForm(cocostuff_scenes.write, 2),
    "cocostuff:json": SceneForm(cocostuff_scenes.write_json, 14),
    "llava_instruct": SceneForm(llava_instruct_scenes.write, 3),
    "refcoco": SceneForm(refcoco_scenes.write, 4),
    "refcoco+": SceneForm(functools.partial(refcoco_scenes.write, corpus="refcoco+"), 5),
    "refcocog": SceneForm(functools.partial(refcoco_scenes.write, corpus="refcocog"), 6),
    "grefcoco": SceneForm(refcoco_scenes.write_grefcoco, 7),
    "magicbrush": SceneForm(magicbrush_scenes.write, 8),
    "magicbrush:test": SceneForm(magicbrush_scenes.write_folder, 15),
    "ultraedit": SceneForm(ultraedit_scenes.write, 9),
    "reasonedit": SceneForm(reasonedit_scenes.write, 10),
    "reasonedit:test": SceneForm(reasonedit_scenes.write_benchmark, 16),
    "emu_edit": SceneForm(emu_edit_scenes.write, 17),
    "emu_edit:generations": SceneForm(functools.partial(emu_edit_scenes.write, generations=True), 18),
}
"""Forms by CORPUS, the usual one, or CORPUS:FORM."""

MANIFEST = "prepared.json"
"""File in a corpus of procedural scenes that holds the settings it was written with."""


def world_of(root: str) -> str:
    """World that a corpus's scenes were drawn from, `train` or a held-out one; empty for real pictures."""
    path = storage.join(root, MANIFEST)
    manifest = rows.read_json(path) if storage.exists(path) else {"world": ""}
    if not isinstance(manifest, dict) or not isinstance(manifest.get("world"), str):
        raise CorpusError(f"{path}: found no world; write the scenes again")
    return manifest["world"]


def find(name: str) -> CatalogEntry:
    """Look a corpus up by its name.

    Raises:
        UnknownCorpusError: no entry has this name.
    """
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1)
        known = f"write one of {', '.join(CORPORA)}; for edit pairs of your own add --format pairs"
        hint = f"did you mean {near[0]!r}?" if near else known
        raise UnknownCorpusError(f"no corpus is called {name!r}; {hint}")
    return CORPORA[name]


def open_corpus(name: str, root: str, split: str = "train") -> Corpus:
    """Open the corpus whose files are under `root`; rows are read lazily.

    Raises:
        UnknownCorpusError: no entry has this name.
        CorpusError: the files under `root` are not this corpus.
    """
    return find(name).read(root, split)
