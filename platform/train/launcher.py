"""Ray Train: the same loop on every worker, restarted from its last checkpoint when one dies."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from fireedit.platform.cluster import quiet_ray_data


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    count: PositiveInt
    cpus: PositiveFloat
    """Logical CPUs of each worker; leave some of the machine's for Ray Data, or both wait for each other for ever."""
    gpus: NonNegativeFloat = 0
    max_failures: NonNegativeInt = 2
    """Restarts before the run gives up."""


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
        folder, name: checkpoints and metrics lie in folder/name; a run of this name that was broken off goes on.
    """
    trainer = TorchTrainer(
        _quietly(loop),
        train_loop_config=dict(config),
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})},
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
    """The loop in a worker that says what the loop says, and not what Ray reports beside it."""

    def quiet_loop(config: dict[str, Any]) -> None:
        quiet_ray_data()
        logging.getLogger().setLevel(logging.WARNING)  # Ray Train tells of every report, by a logger without its name
        loop(config)

    return quiet_loop
