"""The corpora by name: the one table that says which reader opens which."""

import difflib
import functools
import json
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
    """A name that no reader has; the message names the nearest ones."""


CORPORA: dict[str, Reader] = {
    "cc12m": cc12m.read,
    "instructpix2pix": instructpix2pix.read,
    "cocostuff": cocostuff.read,
    "llava_instruct": llava_instruct.read,
    "refcoco": functools.partial(refcoco.read, corpus="refcoco"),
    "refcoco+": functools.partial(refcoco.read, corpus="refcoco+"),
    "refcocog": functools.partial(refcoco.read, corpus="refcocog"),
    "grefcoco": grefcoco.read,
    "magicbrush": magicbrush.read,
    "ultraedit": ultraedit.read,
    "reasonedit": reasonedit.read,
    "emu_edit": emu_edit.read,
}


LICENCES = {
    "cc12m": "captions: may be used for any purpose, as is (Google); pictures: their owners'",
    "instructpix2pix": "MIT for the code; data under Stable Diffusion's licence",
    "cocostuff": "annotations: CC BY 4.0; pictures: Flickr's terms",
    "llava_instruct": "CC BY 4.0, and OpenAI's terms; pictures: Flickr's terms",
    "refcoco": "none stated; pictures: Flickr's terms",
    "refcoco+": "none stated; pictures: Flickr's terms",
    "refcocog": "none stated; pictures: Flickr's terms",
    "grefcoco": "none stated; pictures: Flickr's terms",
    "magicbrush": "CC BY 4.0; the test split must not be passed on unpacked",
    "ultraedit": "CC BY 4.0",
    "reasonedit": "none stated",
    "emu_edit": "CC BY-NC 4.0",
}
"""Of the published corpora, as their pages state it."""

MANIFEST = "prepared.json"
"""Lies in a corpus that was written from procedural scenes, and says with which settings."""


def world_of(root: str) -> str:
    """The world that a corpus's scenes were drawn from, `train` or one that is held out; empty for real pictures."""
    path = storage.join(root, MANIFEST)
    return json.loads(storage.read_bytes(path))["world"] if storage.exists(path) else ""


def open_corpus(name: str, root: str, split: str = "train") -> Corpus:
    """A corpus whose files lie under `root`, its rows read only as they are asked for.

    Raises:
        UnknownCorpusError: no reader has this name.
        CorpusError: the files under `root` are not this corpus.
    """
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(CORPORA)}"
        raise UnknownCorpusError(f"no corpus is called {name!r}; {hint}")
    return CORPORA[name](root, split)
