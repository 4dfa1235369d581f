"""Ray Train: one loop on every worker, restarted from the last checkpoint when a worker fails."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeInt, PositiveInt
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from fireedit.platform.cluster import quiet_ray_data
from fireedit.platform.config import LogicalCPUs, LogicalGPUs


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """Workers of a run and the resources of each."""

    count: PositiveInt
    cpus: LogicalCPUs
    """Logical CPUs of each worker; Ray Data's tasks take more."""
    gpus: LogicalGPUs = 0
    """GPUs of each worker; 0 trains on CPUs."""
    max_failures: NonNegativeInt = 2
    """Restarts before the run gives up."""

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of a worker, as Ray counts them."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


def launch(
    loop: Callable[[dict[str, Any]], None],
    config: Mapping[str, Any],
    workers: WorkersConfig,
    folder: str,
    name: str,
    keep_checkpoints: int,
) -> Result:
    """Run `loop(config)` on every worker and wait for it.

    Args:
        folder, name: folder/name takes checkpoints and metrics; an interrupted run of this name resumes.
    """
    trainer = TorchTrainer(
        _quietly(loop),
        train_loop_config=dict(config),
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker=workers.bundle,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy sees the class of Train's first version
            name=name,
            storage_path=folder,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=keep_checkpoints),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    return trainer.fit()


def _quietly(loop: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Wrap the loop so that a worker prints the loop's lines only, without Ray's reports."""

    def quiet_loop(config: dict[str, Any]) -> None:
        quiet_ray_data()
        logging.getLogger().setLevel(logging.WARNING)  # Ray Train logs every report to the root logger
        loop(config)

    return quiet_loop
