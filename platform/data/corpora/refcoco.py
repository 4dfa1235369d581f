"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that mean one object of a COCO picture.

Source: github.com/lichengunc/refer, `refs(unc).p` and `refs(umd).p` beside `instances.json`; the pickles are read
without running what they may hold.
"""

from fireedit.platform.data.corpora import instances, referring, restricted_pickle, rows

REFS = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}
SPLITS = {"refs(unc).p": ["train", "val", "testA", "testB"], "refs(umd).p": ["train", "val", "test"]}


def read(root: str, split: str = "train", *, corpus: str = "refcoco") -> rows.Corpus:
    """Every sentence of every reference of ROOT/refs(*).p, its picture in ROOT/train2014/."""
    return referring.requests(root, read_refs(root, split, corpus))


def read_refs(root: str, split: str, corpus: str) -> list[referring.Referred]:
    """The references of a split, joined with ROOT/instances.json."""
    rows.require_split(corpus, split, SPLITS[REFS[corpus]])
    path = rows.require(root, REFS[corpus], f"the references of {corpus}")
    return referring.join(corpus, split, path, restricted_pickle.read(path), instances.read(root))
