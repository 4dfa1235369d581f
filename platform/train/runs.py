"""Folders of training runs, and the last finished run to build on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from pyarrow import fs

from fireedit.platform import storage


@dataclass(frozen=True)
class Run:
    """Folder of one training run: recipe, corpora, reports, ledger, checkpoints and at last the weights."""

    home: str
    name: str

    @property
    def parent(self) -> str:
        return storage.join(self.home, "runs")

    @property
    def folder(self) -> str:
        return storage.join(self.parent, self.name)

    @property
    def weights(self) -> str:
        return storage.join(self.folder, "weights")

    @property
    def recipe(self) -> str:
        return storage.join(self.folder, "recipe.yaml")

    @property
    def metrics(self) -> str:
        return storage.join(self.folder, "metrics.jsonl")

    @property
    def quarantine(self) -> str:
        return storage.join(self.folder, "quarantine")

    @property
    def corpora(self) -> str:
        return storage.join(self.folder, "corpora.json")

    @property
    def ledger(self) -> str:
        return storage.join(self.folder, "ledger")

    @property
    def finished(self) -> bool:
        return storage.exists(storage.join(self.weights, "model_index.json"))

    def saved_recipe(self) -> dict[str, Any] | None:
        """Read the plain values of the recipe that the run began with, if it has begun."""
        return yaml.safe_load(storage.read_bytes(self.recipe)) if storage.exists(self.recipe) else None


def new_name(model: str, stage: int) -> str:
    """Make a name that sorts by time, such as `nano-stage2-20261124-093015`."""
    return f"{model}-stage{stage}-{time.strftime('%Y%m%d-%H%M%S')}"


def latest_finished(home: str, stage: int, has_sizes: Callable[[Any], bool]) -> Run | None:
    """Find the run of a stage that was finished last, whatever its name; ablations are passed over.

    Args:
        has_sizes: accepts or rejects the `model` of a saved recipe.
    """
    finished = []
    for name in storage.names(storage.join(home, "runs")):
        run = Run(home, name)
        recipe = run.saved_recipe() if run.finished else None
        if recipe and recipe["stage"] == stage and not recipe.get("without") and has_sizes(recipe["model"]):
            finished.append((_modified_ns(storage.join(run.weights, "model_index.json")), name))
    return Run(home, max(finished)[1]) if finished else None


def _modified_ns(path: str) -> int:
    files, inner = storage.filesystem(path)
    info: fs.FileInfo = files.get_file_info(inner)
    return info.mtime_ns or 0
