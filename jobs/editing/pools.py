"""Actor pools of many edits: how many of each stage, and what each takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from fireedit.platform.config import LogicalCPUs, LogicalGPUs

FOLDER = Path(__file__).parent
"""Folder of the shipped files, `cpu` and `cuda`."""


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Autoscaled actors of one stage."""

    min_actors: PositiveInt = 1
    max_actors: PositiveInt = 64
    cpus: LogicalCPUs = 1.0
    gpus: LogicalGPUs = 0.0
    threads: PositiveInt = 1
    """Threads of torch."""
    batch: PositiveInt = 1
    """Pictures of one forward pass. On CPUs sums, and with them pictures, differ by 1e-6 with the batch's size in
    perceiving and understanding, not in painting."""


@dataclass(frozen=True, kw_only=True)
class PoolsConfig:
    """Actor pools of perceiving, understanding and painting, and the tasks around them."""

    device: Literal["cpu", "cuda"] = "cuda"
    precision: Literal["fp32", "bf16"] = "fp32"
    rows_per_batch: PositiveInt = 8
    """Rows that go through the stages together; the same rows in every run."""
    task_cpus: LogicalCPUs = 1.0
    """Logical CPUs of a task that reads and decodes, or encodes and writes."""
    together: bool = False
    """True runs all three stages in each actor of `paint`: fewer processes, for models that need none of their own."""
    perceive: PoolConfig = PoolConfig()
    understand: PoolConfig = PoolConfig()
    paint: PoolConfig = PoolConfig()

    @property
    def bundles(self) -> list[dict[str, float]]:
        """List what the smallest pools and two tasks hold at a time."""
        pools = [self.paint] if self.together else [self.perceive, self.understand, self.paint]
        actors = [{"CPU": pool.cpus, "GPU": pool.gpus} for pool in pools for _ in range(pool.min_actors)]
        return actors + 2 * [{"CPU": self.task_cpus}]
