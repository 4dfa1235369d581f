"""State of an edit job in its folder: what was asked, what is done, what failed.

    edit.json          settings that the pictures depend on; other ones are refused
    sources.parquet    listing of the pictures, for a folder
    edited/ID.png      edited pictures
    rows/*.jsonl       a line for each edited picture, written after it: a picture without a line is edited again
    failed/*.jsonl     a line for each row that was set aside, with its reason

A part of rows/ or failed/ holds the lines of FLUSH_EVERY_S, so that a million pictures make a few thousand small files,
and no start has to list the pictures.
"""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fireedit.platform import storage

EDITED, ROWS, FAILED = "edited", "rows", "failed"
FLUSH_EVERY_S = 5.0
READERS = 16
"""Parts that are read at a time."""

Record = Mapping[str, Any]
"""Line of a part: row, id, source, instruction, seed, and file, seconds, regions or error."""


class Manifest:
    """Lines of a job's rows, those of earlier starts included; adds new ones.

    Args:
        out: folder of the job.
        rows: rows of the sources.
    """

    def __init__(self, out: str, rows: int):
        self.out = out
        self.edited, self.failed = np.zeros(rows, bool), np.zeros(rows, bool)
        for folder, marks in ((ROWS, self.edited), (FAILED, self.failed)):
            for places in _read_parts(storage.join(out, folder)):
                marks[places] = True
        self.failed &= ~self.edited
        self._new: dict[str, list[Record]] = {ROWS: [], FAILED: []}
        self._flushed, self._part, self._start = time.monotonic(), 0, uuid.uuid4().hex[:8]

    def todo(self, retry_failed: bool) -> np.ndarray:
        """Mark the rows that are still to be edited, bool [rows]."""
        return ~self.edited if retry_failed else ~(self.edited | self.failed)

    def add(self, records: Iterable[Record]) -> None:
        """Take up the lines of finished rows, whose pictures are written; they are saved every FLUSH_EVERY_S."""
        for record in records:
            failed = "error" in record
            self.edited[record["row"]], self.failed[record["row"]] = not failed, failed
            self._new[FAILED if failed else ROWS].append(record)
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Save the lines that are not saved yet."""
        for folder, records in self._new.items():
            if records:
                lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
                name = f"{self._start}-{self._part:06d}.jsonl"
                storage.write_bytes(storage.join(self.out, folder, name), lines.encode())
                records.clear()
        self._part, self._flushed = self._part + 1, time.monotonic()


def _read_parts(folder: str) -> Iterator[list[int]]:
    """Yield the places of the rows in each part."""

    def read(name: str) -> list[int]:
        return [json.loads(line)["row"] for line in storage.read_bytes(storage.join(folder, name)).splitlines()]

    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(read, [name for name in storage.names(folder) if name.endswith(".jsonl")])
