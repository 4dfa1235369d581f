"""Where a run of a recipe lies, and which of the runs before can be built upon."""

import time
from dataclasses import dataclass

import yaml
from pyarrow import fs

from fireedit.platform import storage


@dataclass(frozen=True)
class Run:
    """The folder of one training run: what it was asked, what it draws from and reports, and at last its weights."""

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


def new_name(model: str, stage: int) -> str:
    """`nano-stage2-20261124-093015`: sorts by time."""
    return f"{model}-stage{stage}-{time.strftime('%Y%m%d-%H%M%S')}"


def latest_finished(home: str, model: str, stage: int) -> Run | None:
    """The run of this stage and size that was finished last, whatever its name; an ablation has to be named."""
    found = []
    for name in storage.names(storage.join(home, "runs")):
        run = Run(home, name)
        if run.finished and storage.exists(run.recipe):
            recipe = yaml.safe_load(storage.read_bytes(run.recipe))
            if (recipe["model"], recipe["stage"]) == (model, stage) and not recipe.get("without"):
                found.append((_written(storage.join(run.weights, "model_index.json")), name))
    return Run(home, max(found)[1]) if found else None


def _written(path: str) -> int:
    files, inner = storage.filesystem(path)
    info: fs.FileInfo = files.get_file_info(inner)
    return info.mtime_ns or 0
