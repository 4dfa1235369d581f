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


def read_ledger(folder: str) -> list[list[str]]:
    """Read the ids of every batch of a run, from all workers, in the order of the batches' numbers.

    Raises:
        ValueError: a batch is missing, or was trained on twice with other samples.
    """
    batches: dict[int, list[str]] = {}
    finished = [name for name in storage.names(folder) if name.endswith(".jsonl")]  # a killed worker leaves drafts
    for name in finished:
        for line in storage.read_bytes(storage.join(folder, name)).decode().splitlines():
            entry = json.loads(line)
            if batches.setdefault(entry["batch"], entry["ids"]) != entry["ids"]:
                raise ValueError(f"{folder}: batch {entry['batch']} was trained on twice with other samples")
    missing = sorted(set(range(max(batches, default=-1) + 1)) - batches.keys())
    if missing:
        raise ValueError(f"{folder}: batches {missing} are missing")
    return [batches[number] for number in range(len(batches))]
