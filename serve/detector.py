"""Perceiving: from a picture to what is in it."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from ray import serve

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.serve.part import Part, WeightsConfig, tune


class Detector(Part):
    """Vision encoders, detector and region encoder; the first deployment that a picture passes."""

    def __init__(self, weights: WeightsConfig, max_batch_size: int, batch_wait_s: float):
        super().__init__(FireEditPipeline.PERCEIVING, weights)
        tune(self._propose, max_batch_size, batch_wait_s)

    async def propose(self, image: np.ndarray) -> Percepts:
        """Look at one picture, uint8 [H, W, 3], together with those that others sent; on the CPU."""
        await self.free.wait()
        return await self._propose(image)

    @serve.batch
    async def _propose(self, images: list[np.ndarray]) -> list[Percepts]:
        return await self.work(partial(self._perceive, images))

    def _perceive(self, images: Sequence[np.ndarray]) -> list[Percepts]:
        return [_own(one) for one in self.pipeline.perceive(images).to("cpu").split()]


def _own(percepts: Percepts) -> Percepts:
    """A copy: a slice of a tensor takes the whole tensor along when it is sent."""
    return Percepts(
        image_tokens=percepts.image_tokens.clone(),
        region_tokens=tuple(tokens.clone() for tokens in percepts.region_tokens),
        boxes=tuple(boxes.clone() for boxes in percepts.boxes),
        scores=tuple(scores.clone() for scores in percepts.scores),
        detail=tuple(source.clone() for source in percepts.detail),
    )
