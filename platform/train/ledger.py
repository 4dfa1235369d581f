"""Which samples a run was trained on, written down with every checkpoint: what the weights saw can be proved."""

import json
from typing import Any

from fireedit.platform import storage


class Ledger:
    """One worker's batches since the last checkpoint.

    Args:
        folder: of the run's ledger, shared by all workers.
    """

    def __init__(self, folder: str, rank: int):
        self.folder, self.rank = folder, rank
        self._lines: list[dict[str, Any]] = []

    def add(self, step: int, batch: int, ids: list[str]) -> None:
        """Note the ids of batch number `batch` of the whole run."""
        self._lines.append({"step": step, "batch": batch, "ids": ids})

    def write(self, step: int) -> None:
        """Write down all batches up to `step`, which is about to be saved."""
        lines = "".join(json.dumps(line) + "\n" for line in self._lines)
        storage.write_bytes(storage.join(self.folder, f"{step:08d}-{self.rank:04d}.jsonl"), lines.encode())
        self._lines = []


def read_ledger(folder: str) -> list[list[str]]:
    """The ids of every batch of a run, in the order of the batches' numbers, whichever worker had them.

    Raises:
        ValueError: a batch is missing, or was trained on twice with other samples.
    """
    found: dict[int, list[str]] = {}
    finished = [name for name in storage.names(folder) if name.endswith(".jsonl")]  # a killed worker leaves drafts
    for name in finished:
        for line in storage.read_bytes(storage.join(folder, name)).decode().splitlines():
            entry = json.loads(line)
            if found.setdefault(entry["batch"], entry["ids"]) != entry["ids"]:
                raise ValueError(f"{folder}: batch {entry['batch']} was trained on twice with other samples")
    if sorted(found) != list(range(len(found))):
        raise ValueError(f"{folder}: {len(found)} batches were written down, and they are not the first so many")
    return [found[number] for number in range(len(found))]
