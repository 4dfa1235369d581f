"""Stages of an edit, and the results that they hand to the gateway. Imports no torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ray import ObjectRef

from fireedit.serve.schema import Tokens


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Deployments that the gateway calls: applications while the graph is built, handles in the gateway's replica."""

    detector: Any = None
    vlm: Any = None
    """None, as `detector`, for an editor of a text encoder and a UNet alone."""
    text: Any = None
    """None where detector and VLM are."""
    unet: Any

    @property
    def present(self) -> dict[str, Any]:
        """Stages by name, in the order of an edit."""
        return {name: stage for name, stage in vars(self).items() if stage is not None}


@dataclass(frozen=True)
class StageTimes:
    """Time of one edit in one stage."""

    stage: str
    queue_s: float
    """Seconds of waiting before the model ran."""
    run_s: float
    """Seconds in which the model ran."""
    cached: bool = False
    """True if the result was kept from an earlier edit."""


@dataclass(frozen=True)
class Seen:
    """Result of perception; tensors stay in Ray's object store, owned by the detector's replica."""

    key: str
    """Content hash of the canvas, hex."""
    tokens: ObjectRef
    """Percepts that the VLM reads: image and region tokens."""
    detail: ObjectRef
    """Percepts that the UNet reads: the detail sources of HVCA."""
    boxes: np.ndarray
    """[R, 4] xyxy in [0, 1] of the image's sides, best first."""
    scores: np.ndarray
    """[R] in [0, 1]."""
    times: StageTimes


@dataclass(frozen=True)
class Understood:
    """Result of understanding."""

    edit_tokens: ObjectRef
    """Tensor [1, 77, W]."""
    tokens: Tokens
    times: StageTimes


@dataclass(frozen=True)
class Painted:
    """Result of painting."""

    canvases: list[np.ndarray]
    """uint8 RGB [S, S, 3], one per seed."""
    changed: list[np.ndarray]
    """Cells of the latents that the edit changed, bool [h, w], one per seed."""
    times: StageTimes
    steps: int
    """Denoising steps that were run."""
    branch_seconds: float
    """Seconds of one denoising step divided by the branches in its batch, a moving average of the replica."""
