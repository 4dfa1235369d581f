"""Deployment of perception: from a canvas to its tokens and regions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fireedit.serve import preload  # noqa: F401

# isort: split

import numpy as np
import ray
import torch
from ray import ObjectRef
from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline, regions_of
from fireedit.serve import metrics
from fireedit.serve.part import BatchedDeployment
from fireedit.serve.schema import Box
from fireedit.serve.stage import Seen


@dataclass(frozen=True)
class PublishedPercepts:
    """Percepts of one image in Ray's object store."""

    tokens: ObjectRef
    detail: ObjectRef
    boxes: np.ndarray
    scores: np.ndarray
    nbytes: int


class DetectorDeployment(BatchedDeployment):
    """Vision encoders, detector and region encoder: the first deployment of an edit."""

    stage = "detector"
    components = FireEditPipeline.PERCEIVING

    async def propose(
        self, canvas: np.ndarray, regions: Sequence[Box] | None, deadline: float, request_id: str
    ) -> Seen:
        """Perceive one picture, uint8 RGB [S, S, 3], in a batch with those of other requests.

        Args:
            regions: boxes to encode in place of the detector's.
        Raises:
            DeadlineExceeded: the deadline, in seconds of `time.time`, passed first.
        """
        metrics.count_bytes("gateway", self.stage, canvas.nbytes)
        boxes = None if regions is None else torch.tensor(regions)
        key = content_key(canvas) if regions is None else f"{content_key(canvas)} {regions!r}"
        published, times = await self.submit(key, (canvas, boxes), deadline, request_id)
        return Seen(key, published.tokens, published.detail, published.boxes, published.scores, times)

    def example(self) -> tuple[np.ndarray, Tensor | None]:
        side = self.pipeline.vision.config.image_size
        return np.zeros((side, side, 3), np.uint8), None

    def run(self, requests: Sequence[tuple[np.ndarray, Tensor | None]]) -> list[Percepts]:
        """Perceive a batch; results own their memory, because a slice of a tensor is pickled with the whole tensor."""
        canvases, boxes = zip(*requests, strict=True)
        regions = None if all(each is None for each in boxes) else boxes
        percepts = self.pipeline.perceive(canvases, regions).to("cpu").split()
        return [each.map(Tensor.clone) for each in percepts]

    def publish(self, result: Percepts) -> PublishedPercepts:
        (regions,) = regions_of(result)
        tokens, detail = tokens_of(result), detail_of(result)
        return PublishedPercepts(
            ray.put(tokens), ray.put(detail), regions.boxes, regions.scores, nbytes(tokens) + nbytes(detail)
        )


def content_key(canvas: np.ndarray) -> str:
    """Hash the pixels and the shape of a canvas; hex."""
    digest = hashlib.blake2b(repr(canvas.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(canvas).data)
    return digest.hexdigest()


def tokens_of(percepts: Percepts) -> Percepts:
    """Leave out the percepts that only the UNet reads."""
    return replace(percepts, detail=())


def detail_of(percepts: Percepts) -> Percepts:
    """Leave out the percepts that only the VLM reads."""
    return Percepts(percepts.image_tokens.new_zeros(len(percepts), 0), (), (), (), percepts.detail)


def nbytes(percepts: Percepts) -> int:
    """Count the bytes of all tensors."""
    tensors = [percepts.image_tokens, *percepts.region_tokens, *percepts.boxes, *percepts.scores, *percepts.detail]
    return sum(tensor.nbytes for tensor in tensors)
