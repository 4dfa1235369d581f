"""Edits of many pictures as one job: begun or resumed, counted, with progress and a report."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fireedit.jobs.editing.manifest import ROWS, Manifest, Record
from fireedit.jobs.editing.sources import (
    LISTING,
    Group,
    Sources,
    SourcesError,
    folder_of,
    list_folder,
    open_parquet,
    parquet_files,
    write_listing,
)
from fireedit.models.settings import SettingValue
from fireedit.platform import images, job_folder, storage
from fireedit.platform.data.corpora import pairs
from fireedit.platform.picture_progress import PictureProgress

Todo = Sequence[tuple[Group, Sequence[int]]]
"""Row groups, each with the places in it that are still to be edited."""
Editor = Callable[[Sources, Todo], Iterator[Sequence[Record]]]
"""Edits rows and writes their pictures; yields records of finished rows, in any order."""


@dataclass(frozen=True, kw_only=True)
class ManyEdits:
    """Job as it is asked for."""

    source: str
    """Folder of pictures, parquet file or folder of these; local or s3://."""
    out: str
    instruction: str = ""
    """Text for all pictures; else a file or a column has a text for each."""
    instructions: str = ""
    """File of instructions, for a folder of pictures."""
    column: str = ""
    image_column: str = ""
    """Columns of a parquet file; empty for those with a usual name."""
    seed: int = 0
    file_format: images.Format = "png"
    size: str = "auto"
    changes: Mapping[str, SettingValue | None] = field(default_factory=dict)
    """Sampler settings; None or left out, the weights' own."""
    retry_failed: bool = False


def run(edits: ManyEdits, made_with: Mapping[str, Any], editor: Editor) -> dict[str, Any]:
    """Begin a job in `edits.out`, or go on with the one that is there.

    Args:
        made_with: what else the pictures depend on, such as weights, as JSON holds it.
    Returns:
        Pictures edited now, rows set aside now or before, pictures skipped as they were edited before, seconds, out.
    Raises:
        SourcesError: sources or instructions are wrong.
        JobFolderError: the folder holds another job.
    """
    began = time.monotonic()
    sources = _open_job(edits, made_with)
    state = Manifest(edits.out, sources.rows)
    skipped = int(state.edited.sum())
    todo = _todo(sources, state.todo(edits.retry_failed))
    progress = PictureProgress(sources.rows, skipped, int(state.failed.sum()))
    try:
        for records in editor(sources, todo) if todo else ():
            state.add(records)
            progress.update(int(state.edited.sum()), int(state.failed.sum()))
    finally:
        state.flush()
    progress.close()
    counts = {"edited": int(state.edited.sum()) - skipped, "failed": int(state.failed.sum()), "skipped": skipped}
    return counts | {"seconds": round(time.monotonic() - began, 2), "out": edits.out}


def _open_job(edits: ManyEdits, made_with: Mapping[str, Any]) -> Sources:
    """Open the sources, and compare all that the pictures depend on with what the folder's job was begun with."""
    texts = {"--instruction": edits.instruction, "--instructions": edits.instructions, "--column": edits.column}
    if len(given := [flag for flag, value in texts.items() if value]) > 1:
        raise SourcesError(f"found {' and '.join(given)}; write one of them")
    wanted = {"source": edits.source, "instruction": edits.instruction, "instructions": "", "seed": edits.seed}
    columns = {"column": edits.column, "image_column": edits.image_column}
    wanted |= columns | {"format": edits.file_format, "size": edits.size, **made_with}
    instructions = _instructions(edits)
    if instructions:
        text = storage.read_bytes(instructions)
        wanted["instructions"] = f"{instructions} {hashlib.blake2b(text, digest_size=8).hexdigest()}"
    is_begun = job_folder.require_settings(edits.out, wanted, ROWS)
    sources = _open_sources(edits, instructions, is_begun)
    fingerprint = {"sources": sources.fingerprint}
    if is_begun:
        job_folder.require_settings(edits.out, fingerprint, ROWS)
    else:
        sources.require_unique_ids()
        job_folder.save_settings(edits.out, wanted | fingerprint)
    return sources


def _instructions(edits: ManyEdits) -> str:
    """Return the file of instructions: the one given, or the metadata of a folder that has nothing else."""
    if edits.instructions or edits.instruction or edits.column:
        return edits.instructions
    found = [name for name in storage.names(edits.source) if name in pairs.METADATA]
    return storage.join(edits.source, found[0]) if found else ""


def _open_sources(edits: ManyEdits, instructions: str, is_begun: bool) -> Sources:
    listing, files = storage.join(edits.out, LISTING), parquet_files(edits.source)
    if files and not instructions:
        return open_parquet(
            files, folder_of(edits.source), edits.seed, edits.instruction, edits.column, edits.image_column
        )
    if files and storage.info(edits.source).is_file:
        raise SourcesError(f"--instructions {instructions}: {edits.source} is a parquet file; write --column NAME")
    if not instructions and not edits.instruction:
        raise SourcesError(f"{edits.source}: found no instruction; write --instruction TEXT or --instructions FILE")
    if not is_begun:
        write_listing(listing, list_folder(edits.source, instructions))
    instruction = "" if instructions else edits.instruction
    return dataclasses.replace(open_parquet([listing], edits.out, edits.seed, instruction), base=edits.source)


def _todo(sources: Sources, todo: np.ndarray) -> Todo:
    places = ((group, np.flatnonzero(todo[group.first : group.first + group.rows])) for group in sources.groups)
    return [(group, own.tolist()) for group, own in places if len(own)]
