"""FireEdit as an editor: a saved pipeline; `nano` is the one shipped with the project."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from fireedit.models.pictures import Boxes
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import PaintSettings
from fireedit.models.weights import fingerprint


class FireEdit:
    """FireEdit with the settings saved with its weights; results have the sizes of their sources."""

    name = "fireedit"

    def __init__(self, pipeline: FireEditPipeline):
        self.pipeline, self.settings, self.weights = pipeline, pipeline.settings, fingerprint(pipeline.model)
        pipeline.set_progress_bar_config(disable=True)

    def edit(
        self,
        pictures: Sequence[np.ndarray],
        instructions: Sequence[str],
        seeds: Sequence[int],
        settings: PaintSettings,
        regions: Boxes | None = None,
    ) -> list[np.ndarray]:
        """Edit pictures, as `Editor.edit`.

        Args:
            regions: boxes of each picture that the VLM looks at in place of the detector's; ignored without a detector.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        given = regions if self.pipeline.detector is not None else None
        images, _ = self.pipeline(
            list(instructions),
            list(pictures),
            generator=generators,
            regions=given,
            return_dict=False,
            **asdict(settings),
        )
        return [np.asarray(image) for image in images]


def load(folder: Path | str, device: str) -> FireEdit:
    return FireEdit(FireEditPipeline.from_pretrained(folder).to(device))
