"""Deployment of perception: from an image to its tokens and regions."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from ray import serve

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.serve.part import ModelDeployment, WeightsConfig, set_batching


class DetectorDeployment(ModelDeployment):
    """Vision encoders, detector and region encoder: the first deployment of an edit."""

    def __init__(self, weights: WeightsConfig, max_batch_size: int, batch_wait_s: float):
        super().__init__(FireEditPipeline.PERCEIVING, weights)
        set_batching(self._propose, max_batch_size, batch_wait_s)

    async def propose(self, image: np.ndarray) -> Percepts:
        """Perceive one image, uint8 [H, W, 3], in a batch with those of other requests; the result is on the CPU."""
        await self.idle.wait()
        return await self._propose(image)

    @serve.batch
    async def _propose(self, images: list[np.ndarray]) -> list[Percepts]:
        return await self.run(partial(self.perceive, images))

    def perceive(self, images: Sequence[np.ndarray]) -> list[Percepts]:
        """Perceive a batch; each result owns its memory."""
        return [_copy(percepts) for percepts in self.pipeline.perceive(images).to("cpu").split()]


def _copy(percepts: Percepts) -> Percepts:
    """Copy, because a slice of a tensor is pickled with the whole tensor."""
    return Percepts(
        image_tokens=percepts.image_tokens.clone(),
        region_tokens=tuple(tokens.clone() for tokens in percepts.region_tokens),
        boxes=tuple(boxes.clone() for boxes in percepts.boxes),
        scores=tuple(scores.clone() for scores in percepts.scores),
        detail=tuple(features.clone() for features in percepts.detail),
    )
