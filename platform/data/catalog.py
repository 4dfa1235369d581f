"""The corpora by name: the one table that says which reader opens which."""

import difflib
import functools
from typing import Protocol

import ray.data

from fireedit.platform.data.corpora import (
    cc12m,
    cocostuff,
    grefcoco,
    instructpix2pix,
    llava_instruct,
    magicbrush,
    reasonedit,
    refcoco,
    ultraedit,
)


class Reader(Protocol):
    """Reads the files of one corpus as they are published, into rows of `Sample`."""

    def __call__(self, root: str, split: str = "train") -> ray.data.Dataset: ...


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
}


def open_corpus(name: str, root: str, split: str = "train") -> ray.data.Dataset:
    """The rows of a corpus whose files lie under `root`, read only as they are consumed.

    Raises:
        UnknownCorpusError: no reader has this name.
        CorpusError: the files under `root` are not this corpus.
    """
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(CORPORA)}"
        raise UnknownCorpusError(f"no corpus is called {name!r}; {hint}")
    return CORPORA[name](root, split)
