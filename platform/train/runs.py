"""Folders of training runs, and the last finished run to build on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from fireedit.platform import storage


@dataclass
class Run:
    """Folder of one training run: recipe, corpora, reports, ledger, checkpoints and at last the weights."""

    home: str
    name: str

    def __post_init__(self) -> None:
        self.parent = storage.join(self.home, "runs")
        self.folder = storage.join(self.parent, self.name)
        self.recipe = storage.join(self.folder, "recipe.yaml")
        self.corpora = storage.join(self.folder, "corpora.json")
        self.metrics = storage.join(self.folder, "metrics.jsonl")
        self.ledger = storage.join(self.folder, "ledger")
        self.quarantine = storage.join(self.folder, "quarantine")
        self.stop = storage.join(self.folder, "stop")
        self.tensorboard = storage.join(self.folder, "tensorboard")
        self.traces = storage.join(self.folder, "traces")
        self.validation = storage.join(self.folder, "validation.jsonl")
        self.samples = storage.join(self.folder, "samples")
        self.weights = storage.join(self.folder, "weights")
        self.index = storage.join(self.weights, "model_index.json")

    @property
    def finished(self) -> bool:
        return storage.exists(self.index)

    def saved_recipe(self) -> dict[str, Any] | None:
        """Read the plain values of the recipe of the last sitting, if the run has begun."""
        return yaml.safe_load(storage.read_bytes(self.recipe)) if storage.exists(self.recipe) else None


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
            finished.append((storage.info(run.index).mtime_ns, name))
    return Run(home, max(finished)[1]) if finished else None
