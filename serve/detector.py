"""Deployment of perception: from an image to its tokens and regions."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.serve.part import ModelDeployment


class DetectorDeployment(ModelDeployment):
    """Vision encoders, detector and region encoder: the first deployment of an edit."""

    components = FireEditPipeline.PERCEIVING

    async def propose(self, image: np.ndarray) -> Percepts:
        """Perceive one image, uint8 [H, W, 3], in a batch with those of other requests; the result is on the CPU."""
        return await self.submit(image)

    def run(self, requests: Sequence[np.ndarray]) -> list[Percepts]:
        """Perceive a batch; results own their memory, because a slice of a tensor is pickled with the whole tensor."""
        percepts = self.pipeline.perceive(requests).to("cpu").split()
        return [each.map(Tensor.clone) for each in percepts]
