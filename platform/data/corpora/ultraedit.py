"""UltraEdit: machine-made edit pairs, free or in a region, read from the parquet files of its Hugging Face sets.

The three sets agree on the columns that are needed, and differ in the region's mask, whose box is read where a file has
one: free-form files have a null-typed column for it, the set of 500,000 has none.
Source: huggingface.co/datasets/BleachNick/UltraEdit, UltraEdit_500k and UltraEdit_Region_Based_100k.
"""

from typing import Any

from fireedit.platform.data.corpora import masks, parquet, rows
from fireedit.platform.data.sample import Sample

CORPUS = "ultraedit"
PREFIXES = ("FreeForm", "RegionBase")
COLUMNS = ["idx", "source_image", "edit_prompt", "edited_image"]
PICTURES = ["source_image", "edited_image"]
MASK = "mask_image"


def read(root: str, split: str = "train") -> rows.Corpus:
    """Open every pair of ROOT/data/{FreeForm,RegionBase}*.parquet; all of it is for training."""
    rows.require_split(CORPUS, split, ["train"])
    return parquet.records(root, PREFIXES, parquet.RecordReader(CORPUS, COLUMNS, PICTURES, read_pair, [MASK]))


def read_pair(record: dict[str, Any]) -> Sample:
    """Make one parquet record a sample."""
    columns = {"source": "source_image", "instruction": "edit_prompt", "target": "edited_image"}
    sample = parquet.read_pair(record, f"{CORPUS}/train", str(record["idx"]), **columns)
    return parquet.with_mask(sample, record, MASK, masks.bright)
