"""UltraEdit: machine-made edit pairs, free or in a region, read from the parquet files of its Hugging Face sets.

The three sets agree on the columns read here only: free-form files have a null for the region's object and mask, the
set of 500,000 lacks them.
Source: huggingface.co/datasets/BleachNick/UltraEdit, UltraEdit_500k and UltraEdit_Region_Based_100k.
"""

from typing import Any

import ray.data

from fireedit.platform.data.corpora import parquet, rows
from fireedit.platform.data.sample import Sample

CORPUS = "ultraedit"
PREFIXES = ("FreeForm", "RegionBase")
COLUMNS = ["idx", "source_image", "edit_prompt", "edited_image"]
PICTURES = ["source_image", "edited_image"]


def read(root: str, split: str = "train") -> ray.data.Dataset:
    """Every pair of ROOT/data/{FreeForm,RegionBase}*.parquet as a row; all of it is for training."""
    rows.require_split(CORPUS, split, ["train"])
    return parquet.lazy_records(root, CORPUS, PREFIXES, COLUMNS, PICTURES, _to_row)


def read_pair(record: dict[str, Any]) -> Sample:
    """One sample of one parquet record."""
    names = {"source": "source_image", "instruction": "edit_prompt", "target": "edited_image"}
    return parquet.read_pair(record, f"{CORPUS}/train", str(record["idx"]), **names)


def _to_row(record: dict[str, Any]) -> dict[str, Any]:
    return read_pair(record).row()
