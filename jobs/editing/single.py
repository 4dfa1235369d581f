"""Edit of one picture with weights of one's own, in this process."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from fireedit.jobs.editing import pictures
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import SettingValue
from fireedit.platform import images, storage


def edit_picture(
    data: bytes,
    instruction: str,
    weights: str,
    device: str,
    seed: int,
    changes: Mapping[str, SettingValue | None],
    size: str = "auto",
    mask: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Edit one picture.

    Args:
        data: encoded picture.
        weights: pipeline folder, local or s3://; `nano` names the shipped one.
        changes: sampler settings; None is the weights' own.
        size: as `pictures.require_size`.
        mask: uint8 [H, W] of the picture's size, 255 where it may change.
    Returns:
        The edited picture, uint8 RGB [H, W, 3], and the number of regions that the VLM read.
    """
    source = images.decode(data)
    with nullcontext("nano") if weights == "nano" else storage.reading_folder(weights) as folder:
        pipeline = FireEditPipeline.from_pretrained(folder).to(device or default_device())
    asked: dict[str, Any] = {} if size == "auto" else {"size": pictures.size_of(size)}
    asked |= {} if mask is None else {"mask_image": mask}
    generator = torch.Generator().manual_seed(seed)
    output = pipeline(instruction, source, generator=generator, **asked, **changes)
    return np.asarray(output.images[0]), len(output.regions[0].boxes)


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
