"""What the three thirds of the editor share: loading their weights, and working in batches off the event loop."""

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
    weights: str = "nano"
    """A folder that `save_pretrained` wrote, here or at an s3:// address; `nano` is the one that ships."""
    device: str = "cpu"
    """Such as `cpu` or `cuda`; Ray shows each replica its own GPU as `cuda`."""
    precision: Literal["fp32", "bf16"] = "fp32"


class Part:
    """Some components of the pipeline on one device, for one batch at a time.

    `@serve.batch` closes a batch as soon as its wait is over, also while the one before is still being worked on: of
    requests that trickle in meanwhile it makes many small batches. So requests wait outside until the model is free.
    """

    def __init__(self, components: Sequence[str], config: WeightsConfig):
        diffusers_logging.disable_progress_bar()
        self.pipeline = load(components, config)
        self.free = asyncio.Event()
        self.free.set()

    async def ready(self) -> bool:
        """Answers even while the model works."""
        return True

    def check_health(self) -> None:
        """Raises where the device is lost; Ray Serve then replaces the replica."""
        torch.zeros(1, device=self.pipeline.device)

    async def work(self, model: Callable[[], T]) -> T:
        """Run the model in a thread, alone."""
        self.free.clear()
        try:
            return await asyncio.to_thread(model)
        finally:
            self.free.set()


def tune(batched: Any, max_batch_size: int, batch_wait_s: float) -> None:
    """Give a method under `@serve.batch` the sizes of the recipe; Serve's types do not know that it has these two."""
    batched.set_max_batch_size(max_batch_size)
    batched.set_batch_wait_timeout_s(batch_wait_s)


def load(components: Sequence[str], config: WeightsConfig) -> FireEditPipeline:
    """The pipeline with these components alone."""
    dtype = DTYPES[config.precision]
    if config.weights == "nano":
        pipeline = FireEditPipeline.from_pretrained("nano", parts=components, dtype=dtype)
    else:
        with storage.reading_folder(config.weights) as folder:
            pipeline = FireEditPipeline.from_pretrained(folder, parts=components, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(config.device)
