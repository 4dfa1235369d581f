"""InstructPix2Pix: machine-made edit pairs, read from the parquet files of its Hugging Face set.

Source: huggingface.co/datasets/timbrooks/instructpix2pix-clip-filtered, `data/train-000NN-of-00262-*.parquet`.
"""

import functools
import hashlib
from typing import Any

import pyarrow.parquet as pq
import ray.data

from fireedit.platform import storage
from fireedit.platform.data.corpora import rows
from fireedit.platform.data.sample import Sample

CORPUS = "instructpix2pix"
COLUMNS = ["original_image", "edit_prompt", "edited_image"]
"""The captions before and after are left unread."""


def read(root: str, split: str = "train") -> ray.data.Dataset:
    """Every pair of ROOT/data/SPLIT-*.parquet as a row."""
    folder = rows.require(root, "data", "the folder of parquet files of InstructPix2Pix")
    names = [name for name in storage.names(folder) if name.startswith(f"{split}-") and name.endswith(".parquet")]
    if not names:
        raise rows.CorpusError(f"{folder} has no {split}-*.parquet; found {rows.listing(folder)}")
    paths = [storage.join(folder, name) for name in names]
    files, inner = storage.filesystem(paths[0])
    found = pq.read_schema(inner, filesystem=files).names
    if missing := [column for column in COLUMNS if column not in found]:
        raise rows.CorpusError(f"{paths[0]} has no column {', '.join(missing)}; found {', '.join(found)}")
    table = ray.data.read_parquet(paths, num_cpus=rows.MAP_CPUS).select_columns(COLUMNS)
    return table.map(functools.partial(_to_row, split=split), num_cpus=rows.MAP_CPUS)


def read_pair(record: dict[str, Any], split: str = "train") -> Sample:
    """One sample of one parquet record, whose images are `{bytes, path}`.

    The id is a hash of instruction and pixels, so it outlives another cut of the set into files.
    """
    before, after = (record[name] or {} for name in ("original_image", "edited_image"))
    instruction = (record["edit_prompt"] or "").strip()
    parts = (instruction.encode(), before.get("bytes") or b"", after.get("bytes") or b"")
    digest = hashlib.blake2b(b"\0".join(parts), digest_size=12).hexdigest()
    name, error = f"{CORPUS}/{split}/{digest}", ""
    try:
        if not instruction:
            raise rows.BadRow("edit_prompt: found no text")
        source = rows.check_picture(before.get("bytes"), "original_image")
        target = rows.check_picture(after.get("bytes"), "edited_image")
    except rows.BadRow as bad:
        source, target, error = b"", b"", f"{name}: {bad}"
    return Sample(
        id=name, corpus=CORPUS, task="edit", instruction=instruction, source=source, target=target, error=error
    )


def _to_row(record: dict[str, Any], split: str) -> dict[str, Any]:
    return read_pair(record, split).row()
