"""Ledger of a run: the ids of the samples of every batch, written with every checkpoint."""

import json
from typing import Any

from fireedit.platform import storage


class Ledger:
    """Batches of a worker since the last checkpoint.

    Args:
        folder: the run's ledger, shared by all workers.
    """

    def __init__(self, folder: str, rank: int):
        self.folder, self.rank = folder, rank
        self._lines: list[dict[str, Any]] = []

    def add(self, step: int, batch: int, ids: list[str]) -> None:
        """Record the ids of batch number `batch` of the whole run."""
        self._lines.append({"step": step, "batch": batch, "ids": ids})

    def write(self, step: int) -> None:
        """Write all batches up to `step`, before its checkpoint is saved."""
        lines = "".join(json.dumps(line) + "\n" for line in self._lines)
        storage.write_bytes(storage.join(self.folder, f"{step:08d}-{self.rank:04d}.jsonl"), lines.encode())
        self._lines = []
