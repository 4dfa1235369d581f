"""MagicBrush: edits by hand in sessions of several turns, read from the parquet files of its Hugging Face set.

Each turn is a sample; the source of a later turn is the target of the one before. The masks are left unread.
Source: huggingface.co/datasets/osunlp/MagicBrush, `data/train-000NN-of-00031-*.parquet` and `data/dev-*`.
"""

import functools
from typing import Any

import ray.data

from fireedit.platform.data.corpora import parquet, rows
from fireedit.platform.data.sample import Sample

CORPUS = "magicbrush"
COLUMNS = ["img_id", "turn_index", "source_img", "instruction", "target_img"]
PICTURES = ["source_img", "target_img"]


def read(root: str, split: str = "train") -> ray.data.Dataset:
    """Every turn of ROOT/data/SPLIT-*.parquet as a row."""
    rows.require_split(CORPUS, split, ["train", "dev"])
    return parquet.lazy_records(
        root, CORPUS, (f"{split}-",), COLUMNS, PICTURES, functools.partial(_to_row, split=split)
    )


def read_turn(record: dict[str, Any], split: str = "train") -> Sample:
    """One sample of one parquet record; source and target may differ in size."""
    key = f"{record['img_id']}-{record['turn_index']}"
    names = {"source": "source_img", "instruction": "instruction", "target": "target_img"}
    return parquet.read_pair(record, f"{CORPUS}/{split}", key, **names)


def _to_row(record: dict[str, Any], split: str) -> dict[str, Any]:
    return read_turn(record, split).row()
