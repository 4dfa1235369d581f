"""Ray Train: the same loop on every worker, restarted from its last checkpoint when one dies."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
import ray.train
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    count: PositiveInt
    cpus: PositiveFloat
    """Logical CPUs of each worker; leave some of the machine's for Ray Data, or both wait for each other for ever."""
    gpus: NonNegativeFloat = 0
    max_failures: NonNegativeInt = 2
    """Restarts before the run gives up."""


def start_ray() -> None:
    """Join the Ray that this job was submitted to or that RAY_ADDRESS names; else start one for this process."""
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # one of our own, on this machine alone
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines of progress differ in their numbers only
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it says every line twice
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # report() waits for the controller's next look
    os.environ.setdefault("RAY_worker_niceness", "0")  # a Ray of our own would train at the lowest priority but four
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING, runtime_env={"env_vars": {"RAY_DATA_LOG_LEVEL": "WARNING"}})
    _quiet()


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
        _quiet()
        logging.getLogger().setLevel(logging.WARNING)  # Ray Train tells of every report, by a logger without its name
        loop(config)

    return quiet_loop


def _quiet() -> None:
    """No progress bars of Ray Data, nor a warning that there are none; we tell of progress ourselves."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
