"""Base class of the model deployments: weights are loaded, batches run off the event loop."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from diffusers.utils import logging as diffusers_logging

from fireedit.models.pipeline import FireEditPipeline
from fireedit.platform import storage

T = TypeVar("T")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Weights of a service, and the device and precision they run in."""

    weights: str = "nano"
    """Folder that `save_pretrained` wrote, local or s3://; `nano` names the shipped one."""
    device: str = "cpu"
    """Torch device, `cpu` or `cuda`; Ray shows each replica its own GPU as `cuda`."""
    precision: Literal["fp32", "bf16"] = "fp32"


class ModelDeployment:
    """Components of the pipeline on one device, running one batch at a time.

    `@serve.batch` closes a batch when its wait is over, even while the previous one still runs, so that requests which
    arrive meanwhile would form many small batches. They wait for `idle` instead, before they enter the batch.
    """

    def __init__(self, components: Sequence[str], config: WeightsConfig):
        diffusers_logging.disable_progress_bar()
        self.pipeline = load(components, config)
        self.idle = asyncio.Event()
        self.idle.set()

    async def ready(self) -> bool:
        """Answer, even while the model runs."""
        return True

    def check_health(self) -> None:
        """Raise if the device is lost; Ray Serve then replaces the replica."""
        torch.zeros(1, device=self.pipeline.device)

    async def run(self, model: Callable[[], T]) -> T:
        """Run the model in a thread; `idle` is cleared meanwhile."""
        self.idle.clear()
        try:
            return await asyncio.to_thread(model)
        finally:
            self.idle.set()


def set_batching(batched: Any, max_batch_size: int, batch_wait_s: float) -> None:
    """Set the recipe's sizes on a method under `@serve.batch`; Ray Serve's types lack these two setters."""
    batched.set_max_batch_size(max_batch_size)
    batched.set_batch_wait_timeout_s(batch_wait_s)


def load(components: Sequence[str], config: WeightsConfig) -> FireEditPipeline:
    """Load the pipeline with these components only."""
    dtype = DTYPES[config.precision]
    if config.weights == "nano":
        pipeline = FireEditPipeline.from_pretrained("nano", parts=components, dtype=dtype)
    else:
        with storage.reading_folder(config.weights) as folder:
            pipeline = FireEditPipeline.from_pretrained(folder, parts=components, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(config.device)
