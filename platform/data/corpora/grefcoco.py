"""gRefCOCO: expressions that mean no, one or several objects of a COCO picture; for none, the target equals the source.

Source: github.com/henghuiding/gRefCOCO, `grefs(unc).json` beside `instances.json`.
"""

import json

import ray.data

from fireedit.platform import storage
from fireedit.platform.data.corpora import instances, referring, rows

CORPUS = "grefcoco"
FILE = "grefs(unc).json"


def read(root: str, split: str = "train") -> ray.data.Dataset:
    """Every reference of ROOT/grefs(unc).json as a row, its picture in ROOT/train2014/."""
    return referring.lazy_requests(root, read_refs(root, split))


def read_refs(root: str, split: str) -> list[referring.Referred]:
    """The references of a split, joined with ROOT/instances.json."""
    rows.require_split(CORPUS, split, ["train", "val", "testA", "testB"])
    path = rows.require(root, FILE, "the references of gRefCOCO")
    try:
        refs = json.loads(storage.read_bytes(path))
    except ValueError as error:
        raise rows.CorpusError(f"{path} is not JSON: {error}; fetch it again") from None
    return referring.join(CORPUS, split, path, refs, instances.read(root))
