"""Base classes of the model deployments: loaded weights and probes; batches that run off the event loop."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import ray
import torch
from diffusers.utils import logging as diffusers_logging
from pydantic import Field
from ray import ObjectRef, serve

from fireedit.models.editors.instruct_pix2pix import load_instruct_pix2pix
from fireedit.models.layers.component import DTYPES
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.speed import SpeedConfig, accelerate
from fireedit.platform import storage
from fireedit.serve import metrics
from fireedit.serve.cache import Cache, Demand
from fireedit.serve.prompts import Editor
from fireedit.serve.replica_port import bind_to_node_address
from fireedit.serve.schema import DeadlineExceeded
from fireedit.serve.stage import StageTimes

logger = logging.getLogger("ray.serve")  # Ray Serve's log: each line has the id of its request
T = TypeVar("T")

RECENT = 0.2
"""Weight of the newest batch in the moving average of seconds per request."""


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Weights of a service, and the device and precision they run in."""

    weights: str = "nano"
    """Folder that `save_pretrained` wrote, local or s3://; `nano` names the shipped one."""
    device: str = "cpu"
    """Torch device, `cpu` or `cuda`; Ray shows each replica its own GPU as `cuda`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    editor: Editor = "fireedit"
    """`instruct-pix2pix` runs a text encoder and an 8-channel UNet alone, from FireEdit's folder or diffusers' own."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    """Switches of inference; each stage applies those of its own parts."""


@dataclass(frozen=True, kw_only=True)
class BatchingConfig:
    """Threads, batches and cache of a stage that runs one batch at a time."""

    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of torch."""
    max_batch_size: Annotated[int, Field(ge=1)] = 1
    """Requests per batch. On CPUs sums, and with them pictures, differ by 1e-6 with the batch's size."""
    batch_wait_s: Annotated[float, Field(ge=0)] = 0.002
    """Seconds that an idle model waits for the batch to fill after its first request."""
    cache_bytes: Annotated[int, Field(ge=0)] = 64_000_000
    """Bytes of kept results, in Ray's object store."""


class ModelDeployment:
    """Components of the pipeline on one device, and one thread that runs them.

    Only that thread runs the model, so that torch keeps one pool of threads, whatever else the replica does.
    """

    stage: ClassVar[str]
    """Name of the stage in metrics and results."""
    components: ClassVar[Sequence[str]]
    """Names of the pipeline's components that are loaded."""

    def __init__(self, weights: WeightsConfig, threads: int = 1):
        bind_to_node_address()
        diffusers_logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self._thread = ThreadPoolExecutor(1, f"{self.stage}-model", torch.set_num_threads, (threads,))
        self.pipeline = load(self.components, weights)

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in the model's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def warm_up(self, function: Callable[..., Any], *args: Any) -> float:
        """Run the model once in its thread before the first request; returns its seconds."""
        begun = time.perf_counter()
        self._thread.submit(function, *args).result()
        return time.perf_counter() - begun

    async def ready(self) -> bool:
        """Answer, even while the model runs; a replica gets calls once its constructor has warmed the model up."""
        return True

    def check_health(self) -> None:
        """Raise if the device is lost; Ray Serve then replaces the replica."""
        torch.zeros(1, device=self.pipeline.device)

    def queue_seconds(self) -> float:
        """Estimate the seconds of work that wait or run in this replica."""
        raise NotImplementedError

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Report the load to Ray Serve's autoscaler, for `scaling.QueueSecondsPolicy`."""
        return {"queue_seconds": self.queue_seconds()}


@dataclass(frozen=True)
class Published:
    """Tensor in Ray's object store."""

    tensor: ObjectRef
    nbytes: int


@dataclass(eq=False)
class Work:
    """Request of a batch."""

    request: Any
    demand: Demand
    queued: float = field(default_factory=time.perf_counter)
    times: StageTimes | None = None
    """Set when the model has run."""


class BatchedDeployment(ModelDeployment):
    """Model that runs one batch of requests at a time, and keeps results by their content.

    `@serve.batch` closes a batch when its wait is over, even while the previous one still runs, so that requests which
    arrive meanwhile would form many small batches. They wait for `idle` instead, before they enter the batch.
    """

    def __init__(self, weights: WeightsConfig, batching: BatchingConfig):
        super().__init__(weights, batching.threads)
        self.cache: Cache[Any] = Cache(self.stage, batching.cache_bytes, lambda result: result.nbytes)
        self.idle = asyncio.Event()
        self.idle.set()
        self.pending, self.running = 0, 0
        batched: Any = self._batched  # Ray Serve's types lack these two setters
        batched.set_max_batch_size(batching.max_batch_size)
        batched.set_batch_wait_timeout_s(batching.batch_wait_s)
        self.request_seconds = self.warm_up(self.run, [self.example()])

    def example(self) -> Any:
        """Build a request that warms the model up."""
        raise NotImplementedError

    def run(self, requests: list[Any]) -> list[Any]:
        """Run the model on a batch; returns a result for each request."""
        raise NotImplementedError

    def publish(self, result: Any) -> Any:
        """Put one result, here a tensor, into Ray's object store; returns what is kept, with its size as `nbytes`."""
        return Published(ray.put(result), result.nbytes)

    def queue_seconds(self) -> float:
        return self.pending * self.request_seconds

    async def submit(self, key: str, request: Any, deadline: float, request_id: str) -> tuple[Any, StageTimes]:
        """Return the published result of a request: a kept one, or that of a batch with others.

        Args:
            key: content of the request; equal ones that arrive meanwhile share one run.
            deadline: seconds of `time.time`.
        Raises:
            DeadlineExceeded: it passed before the model ran, or while it did.
        """
        begun, work = time.perf_counter(), None

        async def compute(demand: Demand) -> Any:
            nonlocal work
            work = Work(request, demand)
            return await self._run_batched(work)

        try:
            result, cached = await self.cache.fetch(key, deadline, compute)
        except DeadlineExceeded:
            logger.info("request %s: its deadline passed in stage %s", request_id, self.stage)
            raise
        if work is not None and work.times is not None:
            return result, work.times
        return result, StageTimes(self.stage, time.perf_counter() - begun, 0.0, cached)

    async def _run_batched(self, work: Work) -> Any:
        self._count(pending=1)
        try:
            await self.idle.wait()
            result = await self._batched(work)
        finally:
            self._count(pending=-1)
        if result is None:
            raise DeadlineExceeded
        if isinstance(result, Exception):
            raise result
        return result

    @serve.batch
    async def _batched(self, batch: list[Work]) -> list[Any]:
        """Run the model on the requests that somebody waits for; None for others, an error for those that fail."""
        wanted = [work for work in batch if work.demand.wanted]
        results: dict[Work, Any] = {}
        if wanted:
            self.idle.clear()
            self._count(running=len(wanted))
            try:
                published = await self.in_thread(self._run_and_publish, wanted)
            finally:
                self.idle.set()
                self._count(running=-len(wanted))
            results = dict(zip(wanted, published, strict=True))
        return [results.get(work) for work in batch]

    def _run_and_publish(self, batch: Sequence[Work]) -> list[Any]:
        begun = time.perf_counter()
        results = self.run_isolated([work.request for work in batch])
        run_s = time.perf_counter() - begun
        self.request_seconds += RECENT * (run_s / len(batch) - self.request_seconds)
        metrics.observe_batch(self.stage, len(batch))
        for work in batch:
            work.times = StageTimes(self.stage, begun - work.queued, run_s)
            metrics.observe_stage(self.stage, work.times.queue_s, run_s)
        return [result if isinstance(result, Exception) else self.publish(result) for result in results]

    def run_isolated(self, requests: list[Any]) -> list[Any]:
        """Run a batch; if it fails, its requests run alone, so that only the cause gets an error, which is returned."""
        try:
            return self.run(requests)
        except Exception as error:
            if len(requests) == 1:
                return [error]
            logger.exception("a batch of %d failed in stage %s", len(requests), self.stage)
            return [result for request in requests for result in self.run_isolated([request])]

    def _count(self, pending: int = 0, running: int = 0) -> None:
        self.pending, self.running = self.pending + pending, self.running + running
        metrics.set_load(self.stage, self.running, max(0, self.pending - self.running))


def load(components: Sequence[str], config: WeightsConfig) -> FireEditPipeline:
    """Load the pipeline with these components only; those that the editor does not have are left out."""
    from_folder = FireEditPipeline.from_pretrained if config.editor == "fireedit" else load_instruct_pix2pix
    with nullcontext("nano") if config.weights == "nano" else storage.reading_folder(config.weights) as folder:
        pipeline = from_folder(folder, parts=components, dtype=DTYPES[config.precision])
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(config.device)
    accelerate(pipeline, config.speed)
    return pipeline
