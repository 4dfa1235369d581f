"""Checkpoints of a run: written by every worker, registered whole or not at all by Ray Train."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint

from fireedit.platform.train.engine import Engine


def save(engine: Engine, state: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Hand a checkpoint to Ray Train together with `metrics`; every worker must call it at the same step."""
    with tempfile.TemporaryDirectory() as folder:
        engine.save(Path(folder), dict(state))
        ray.train.report(dict(metrics), checkpoint=Checkpoint.from_directory(folder))


def resume(engine: Engine) -> dict[str, Any] | None:
    """Load this run's latest checkpoint, if there is one; returns the `state` saved with it."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return engine.load(Path(folder))
