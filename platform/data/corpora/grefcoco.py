"""gRefCOCO: expressions that mean no, one or several objects of a COCO picture; for none, the target equals the source.

Source: github.com/henghuiding/gRefCOCO, `grefs(unc).json` beside `instances.json`.
"""

from fireedit.platform.data.corpora import instances, referring, rows

CORPUS = "grefcoco"
FILE = "grefs(unc).json"


def read(root: str, split: str = "train") -> rows.Corpus:
    """Every sentence of every reference of ROOT/grefs(unc).json, its picture in ROOT/train2014/."""
    return referring.requests(root, read_refs(root, split))


def read_refs(root: str, split: str) -> list[referring.Referred]:
    """The references of a split, joined with ROOT/instances.json."""
    rows.require_split(CORPUS, split, ["train", "val", "testA", "testB"])
    path = rows.require(root, FILE, "the references of gRefCOCO")
    return referring.join(CORPUS, split, path, rows.read_json(path), instances.read(root))
