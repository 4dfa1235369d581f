"""UltraEdit: machine-made edit pairs, free or in a region, read from the parquet files of its Hugging Face sets.

The three sets agree on the columns that are needed, and differ in the region's mask, whose box is read where a file has
one: free-form files have a null-typed column for it, the set of 500,000 has none.
Source: huggingface.co/datasets/BleachNick/UltraEdit, UltraEdit_500k and UltraEdit_Region_Based_100k.
"""

from fireedit.platform.data.corpora import parquet, rows

CORPUS = "ultraedit"
PREFIXES = ("FreeForm", "RegionBase")
READER = parquet.PairReader(
    f"{CORPUS}/train",
    {"source": "source_image", "instruction": "edit_prompt", "target": "edited_image", "mask": "mask_image"},
    key=["idx"],
)


def read(root: str, split: str = "train") -> rows.Corpus:
    """Open every pair of ROOT/data/{FreeForm,RegionBase}*.parquet; all of it is for training."""
    rows.require_split(CORPUS, split, ["train"])
    return parquet.open_pairs(root, PREFIXES, READER)
