"""MagicBrush: edits by hand in sessions of several turns, read from the parquet files of its Hugging Face set.

Each turn is a sample; the source of a later turn is the target of the one before. Its box is that of the mask: the part
of `mask_img` that is transparent or, where nothing is, pure white and not so in the source.
Source: huggingface.co/datasets/osunlp/MagicBrush, `data/train-000NN-of-00031-*.parquet` and `data/dev-*`.
"""

import dataclasses
import functools
from typing import Any

from fireedit.platform import storage
from fireedit.platform.data.corpora import magicbrush_folder, masks, parquet, rows
from fireedit.platform.data.sample import Sample

CORPUS = magicbrush_folder.CORPUS
COLUMNS = ["img_id", "turn_index", "source_img", "instruction", "target_img"]
PICTURES = ["source_img", "target_img"]
MASK = "mask_img"


def read(root: str, split: str = "train") -> rows.Corpus:
    """Every turn of ROOT/data/SPLIT-*.parquet; of the folder ROOT/SPLIT for test, and for dev if it is there."""
    rows.require_split(CORPUS, split, ["train", "dev", "test"])
    if split == "test" or (split == "dev" and storage.exists(storage.join(root, split))):
        return magicbrush_folder.read(root, split)
    to_sample = functools.partial(read_turn, split=split)
    return parquet.records(root, CORPUS, (f"{split}-",), COLUMNS, PICTURES, to_sample, optional=[MASK])


def read_turn(record: dict[str, Any], split: str = "train") -> Sample:
    """One sample of one parquet record; source and target may differ in size."""
    key = f"{record['img_id']}-{record['turn_index']}"
    names = {"source": "source_img", "instruction": "instruction", "target": "target_img"}
    sample = parquet.read_pair(record, f"{CORPUS}/{split}", key, **names)
    erased = functools.partial(masks.erased, source=sample.source)
    return dataclasses.replace(sample, boxes=masks.boxes(parquet.picture_bytes(record, MASK), erased))
