"""InstructPix2Pix: machine-made edit pairs, read from the parquet files of its Hugging Face set or as first published.

Source: huggingface.co/datasets/timbrooks/instructpix2pix-clip-filtered, `data/train-000NN-of-00262-*.parquet`; the
folders and zips of github.com/timothybrooks/instruct-pix2pix are in prompt_folders.py.
"""

import functools
from typing import Any

from fireedit.platform import storage
from fireedit.platform.data.corpora import parquet, prompt_folders, rows
from fireedit.platform.data.sample import Sample

CORPUS = prompt_folders.CORPUS
COLUMNS = ["original_image", "edit_prompt", "edited_image"]
"""The captions before and after are left unread."""
PICTURES = ["original_image", "edited_image"]


def read(root: str, split: str = "train") -> rows.Corpus:
    """Every pair of ROOT/data/SPLIT-*.parquet; without ROOT/data, one of each folder that ROOT/seeds.json lists."""
    if not storage.exists(storage.join(root, "data")):
        if storage.exists(storage.join(root, prompt_folders.FILE)):
            return prompt_folders.read(root, split)
        wanted = f"neither data/{split}-*.parquet nor {prompt_folders.FILE} beside its folders or shard-*.zip"
        raise rows.CorpusError(f"{root} has {wanted}; found {rows.listing(root)}")
    to_sample = functools.partial(read_pair, split=split)
    return parquet.records(root, CORPUS, (f"{split}-",), COLUMNS, PICTURES, to_sample)


def read_pair(record: dict[str, Any], split: str = "train") -> Sample:
    """One sample of one parquet record; the set gives its records no names."""
    names = {"source": "original_image", "instruction": "edit_prompt", "target": "edited_image"}
    return parquet.read_pair(record, f"{CORPUS}/{split}", "", **names)
