"""Bytes that the workers of a node fetch for each row, over a pass of a mixture's rows."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fireedit.platform import storage
from fireedit.platform.data.ingest import Corpora, IngestConfig, PreparedRow, Share, prepared_batches
from fireedit.platform.data.pool_tasks import PoolTasks
from fireedit.platform.data.preparation import prepare_missing
from fireedit.platform.data.ray_tasks import RayTasks
from fireedit.platform.scenes.world import ScenesConfig

WORKERS, BATCH = 4, 8
ROWS = 512
"""Rows of each corpus."""
MIXTURE = {"instructpix2pix": 1.0, "llava_instruct": 1.0}


class NeverRefusedError(Exception):
    """Refusal of a preparation that refuses nothing."""


def ratio(folder: Path, kind: str) -> float:
    """Read a pass with four workers; returns bytes fetched over bytes of the rows.

    Args:
        kind: `pool` for processes of a pool, `ray` for Ray.
    """
    home = str(folder / "home")
    prepare_missing(home, MIXTURE, ScenesConfig(rows=ROWS, size=64), cpus_per_task=0.25)
    config = IngestConfig(tasks=1, cpus_per_task=0.25, cache_folder=str(folder / f"groups-{kind}"))
    corpora = Corpora(storage.join(home, "shards"), MIXTURE, 0, config)
    stop = sum(corpora.sizes.values()) // BATCH * BATCH
    read = functools.partial(
        prepared_batches,
        corpora,
        prepare=prepared,
        refusal=NeverRefusedError,
        quarantine=str(folder / "refused"),
        side=64,
        tasks=RayTasks if kind == "ray" else PoolTasks,
    )
    workers = [read(share=Share(rank, WORKERS, BATCH, 0, stop)) for rank in range(WORKERS)]
    batches = [batch for step in zip(*workers, strict=True) for batch in step]
    return sum(batch.fetched_bytes for batch in batches) / sum(batch.row_bytes for batch in batches)


def prepared(sample: Mapping[str, Any]) -> PreparedRow:
    """Make a row of nothing but its length."""
    return {"instruction": np.array(len(sample["instruction"]))}
