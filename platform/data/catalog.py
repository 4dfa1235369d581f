"""Catalog of the published corpora: reader, license and blocks of scene seeds of each, one entry a corpus."""

import dataclasses
import difflib
import functools
import json
from collections.abc import Mapping
from typing import Protocol

from fireedit.platform import storage
from fireedit.platform.data.corpora import (
    cc12m,
    cocostuff,
    emu_edit,
    grefcoco,
    instructpix2pix,
    llava_instruct,
    magicbrush,
    reasonedit,
    refcoco,
    ultraedit,
)
from fireedit.platform.data.corpora.rows import Corpus


class Reader(Protocol):
    """Opens the files of one corpus as they are published."""

    def __call__(self, root: str, split: str = "train") -> Corpus: ...


class UnknownCorpusError(ValueError):
    """Name that no entry has; the message names the nearest ones."""


@dataclasses.dataclass(frozen=True)
class CatalogEntry:
    """One corpus, declared."""

    name: str
    read: Reader
    license: str
    """Terms of its annotations and pictures, as its page states them."""
    seed_blocks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Blocks of each world's seeds that its procedural scenes are drawn from, by form: "" is the usual one, others are
    written CORPUS:FORM. Never changed once scenes were written, and no block twice."""


MOST_SEED_BLOCKS = 20
"""Blocks that the seeds of each world are cut into, so that no two corpora show the same scene."""

_COCO = "pictures: Flickr's terms"
_ENTRIES = (
    CatalogEntry(
        "cc12m",
        cc12m.read,
        "captions: may be used for any purpose, as is (Google); pictures: their owners'",
        {"": 0, "tars": 11},
    ),
    CatalogEntry(
        "instructpix2pix",
        instructpix2pix.read,
        "MIT for the code; data under Stable Diffusion's license",
        {"": 1, "folders": 12, "zips": 13},
    ),
    CatalogEntry("cocostuff", cocostuff.read, f"annotations: CC BY 4.0; {_COCO}", {"": 2, "json": 14}),
    CatalogEntry("llava_instruct", llava_instruct.read, f"CC BY 4.0, and OpenAI's terms; {_COCO}", {"": 3}),
    CatalogEntry("refcoco", functools.partial(refcoco.read, corpus="refcoco"), f"none stated; {_COCO}", {"": 4}),
    CatalogEntry("refcoco+", functools.partial(refcoco.read, corpus="refcoco+"), f"none stated; {_COCO}", {"": 5}),
    CatalogEntry("refcocog", functools.partial(refcoco.read, corpus="refcocog"), f"none stated; {_COCO}", {"": 6}),
    CatalogEntry("grefcoco", grefcoco.read, f"none stated; {_COCO}", {"": 7}),
    CatalogEntry(
        "magicbrush",
        magicbrush.read,
        "CC BY 4.0; the test split must not be passed on unpacked",
        {"": 8, "test": 15},
    ),
    CatalogEntry("ultraedit", ultraedit.read, "CC BY 4.0", {"": 9}),
    CatalogEntry("reasonedit", reasonedit.read, "none stated", {"": 10, "test": 16}),
    CatalogEntry("emu_edit", emu_edit.read, "CC BY-NC 4.0", {"": 17, "generations": 18}),
)
CORPORA: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}

MANIFEST = "prepared.json"
"""File in a corpus of procedural scenes that holds the settings it was written with."""


def world_of(root: str) -> str:
    """World that a corpus's scenes were drawn from, `train` or a held-out one; empty for real pictures."""
    path = storage.join(root, MANIFEST)
    return json.loads(storage.read_bytes(path))["world"] if storage.exists(path) else ""


def find(name: str) -> CatalogEntry:
    """Look a corpus up by its name.

    Raises:
        UnknownCorpusError: no entry has this name.
    """
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(CORPORA)}"
        raise UnknownCorpusError(f"no corpus is called {name!r}; {hint}")
    return CORPORA[name]


def open_corpus(name: str, root: str, split: str = "train") -> Corpus:
    """Open the corpus whose files are under `root`; rows are read lazily.

    Raises:
        UnknownCorpusError: no entry has this name.
        CorpusError: the files under `root` are not this corpus.
    """
    return find(name).read(root, split)


def seed_range(name: str, seeds: range) -> range:
    """Cut the seeds of a corpus's scenes out of those of a world.

    Args:
        name: CORPUS or CORPUS:FORM.
        seeds: all of the world's.
    Raises:
        UnknownCorpusError, KeyError: no entry has this name or form.
    """
    corpus, _, form = name.partition(":")
    size = len(seeds) // MOST_SEED_BLOCKS
    first = seeds.start + find(corpus).seed_blocks[form] * size
    return range(first, first + size)
