"""Base class of the model deployments: weights are loaded, batches run off the event loop."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from diffusers.utils import logging as diffusers_logging
from ray import serve

from fireedit.models.pipeline import FireEditPipeline
from fireedit.platform import storage

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

    components: ClassVar[Sequence[str]]
    """Names of the pipeline's components that are loaded."""

    def __init__(self, config: WeightsConfig, max_batch_size: int, batch_wait_s: float):
        diffusers_logging.disable_progress_bar()
        self.pipeline = load(self.components, config)
        self.idle = asyncio.Event()
        self.idle.set()
        batching: Any = self._batched  # Ray Serve's types lack these two setters
        batching.set_max_batch_size(max_batch_size)
        batching.set_batch_wait_timeout_s(batch_wait_s)

    def run(self, requests: list[Any]) -> list[Any]:
        """Run the model on a batch; returns a result for each request."""
        raise NotImplementedError

    async def ready(self) -> bool:
        """Answer, even while the model runs."""
        return True

    def check_health(self) -> None:
        """Raise if the device is lost; Ray Serve then replaces the replica."""
        torch.zeros(1, device=self.pipeline.device)

    async def submit(self, request: Any) -> Any:
        """Run one request in a batch with others."""
        await self.idle.wait()
        return await self._batched(request)

    @serve.batch
    async def _batched(self, requests: list[Any]) -> list[Any]:
        """Run the model in a thread; `idle` is cleared meanwhile."""
        self.idle.clear()
        try:
            return await asyncio.to_thread(self.run, requests)
        finally:
            self.idle.set()


def load(components: Sequence[str], config: WeightsConfig) -> FireEditPipeline:
    """Load the pipeline with these components only."""
    with nullcontext("nano") if config.weights == "nano" else storage.reading_folder(config.weights) as folder:
        pipeline = FireEditPipeline.from_pretrained(folder, parts=components, dtype=DTYPES[config.precision])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(config.device)
