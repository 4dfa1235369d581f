"""Pictures on their way into the pipeline and out of it: sources, masks, boxes, results."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.sampler import Generators
from fireedit.platform.images import MAX_PIXELS, ImageError, Picture, Source
from fireedit.platform.restoration import canvas_size

ImageInput = Source
"""Still picture that `Image.open` gives, uint8 [H, W], [H, W, 3] or [H, W, 4], bool [H, W], or a file's bytes."""
Boxes = Sequence[np.ndarray | Tensor | None]
"""For each image [R, 4] xyxy in [0, 1] of its sides, or None for the detector's."""


MASK = "mask_image"
"""Argument of the pipeline, in the errors about masks."""


@dataclass(frozen=True)
class Regions:
    """Regions of one image that the VLM read."""

    boxes: np.ndarray
    """[R, 4] xyxy in [0, 1] of the image's sides, best first."""
    scores: np.ndarray
    """[R] in [0, 1]."""


@dataclass
class FireEditPipelineOutput(BaseOutput):
    images: list[Image.Image] | np.ndarray | Tensor
    """`num_images_per_prompt` for each source, of its size; latents for output_type="latent"."""
    regions: list[Regions]
    """Regions of each source."""


def regions_of(percepts: Percepts) -> list[Regions]:
    """Copy the regions of each image to the CPU."""
    return [
        Regions(boxes=boxes.float().cpu().numpy(), scores=scores.float().cpu().numpy())
        for boxes, scores in zip(percepts.boxes, percepts.scores, strict=True)
    ]


def result_sizes(
    size: str | tuple[int, int], sources: Sequence[Picture], side: int, output_type: str
) -> list[tuple[int, int]]:
    """Compute width and height of the result of each source.

    Args:
        size: these, "auto" for the source's, or "canvas" for no more than a canvas of `side`.
    Raises:
        ValueError: it is none of them, or results of several sizes are to become one array.
    """
    if size == "auto":
        sizes = [source.size for source in sources]
    elif size == "canvas":
        sizes = [canvas_size(source.size, side) for source in sources]
    elif not _is_size(size):
        raise ValueError(
            f"size is {size!r:.80}; write 'auto', 'canvas' or (width, height) of at most {MAX_PIXELS:,} pixels in all"
        )
    else:
        sizes = [(int(size[0]), int(size[1]))] * len(sources)
    if output_type in ("np", "pt") and len(set(sizes)) > 1:
        raise ValueError("images of several sizes do not fit into one array; write output_type='pil'")
    return sizes


def _is_size(size: object) -> bool:
    """Tell width and height of a picture that can be decoded again from anything else."""
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(isinstance(side, Integral) for side in size):
        return False
    return min(size) >= 1 and int(size[0]) * int(size[1]) <= MAX_PIXELS


def tensors_of(regions: Boxes | None, count: int) -> list[Tensor | None] | None:
    """Convert boxes to float32 tensors [R, 4].

    Raises:
        ValueError: they are not one array of boxes, or None, for each of `count` images.
    """
    if regions is None:
        return None
    try:
        boxes = [None if each is None else torch.as_tensor(each, dtype=torch.float32) for each in regions]
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"regions are {regions!r:.80}; write an array [R, 4], or None, for each image") from None
    if len(boxes) != count:
        raise ValueError(f"regions for {len(boxes)} images; write them, or None, for each of the {count} images")
    for each in boxes:
        if each is not None and not _are_boxes(each):
            raise ValueError(f"regions hold {each.tolist()!r:.80}; write [[left, top, right, bottom], ...] in [0, 1]")
    return boxes


def _are_boxes(boxes: Tensor) -> bool:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        return False
    return bool(((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, :2] < boxes[:, 2:]).all())


def read_images(images: Sequence[ImageInput], name: str = "image") -> list[Picture]:
    """Open pictures, those of the argument `name`.

    Raises:
        ValueError: one is none, an animation, empty or too large.
    """
    for image in images:
        if not isinstance(image, Image.Image | np.ndarray | bytes):
            raise ValueError(f"{name} is a {type(image).__name__}; write a PIL image, uint8 RGB [H, W, 3] or bytes")
    try:
        return [Picture(image) for image in images]
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None


def read_masks(masks: ImageInput | list[ImageInput] | None, sources: Sequence[Picture]) -> list[np.ndarray | None]:
    """Read masks of the sources' sizes as gray levels, uint8 [H, W] each; None for sources without.

    Args:
        masks: white where the source may change: 255, True, or 1 in floating point.
    Raises:
        ValueError: a mask has another size than its source, or there are not as many as sources, or its white is 1.
    """
    if masks is None:
        return [None] * len(sources)
    pictures = read_images([_in_levels(each) for each in (masks if isinstance(masks, list | tuple) else [masks])], MASK)
    if [mask.size for mask in pictures] != [source.size for source in sources]:
        found, wanted = (", ".join("{} x {}".format(*each.size) for each in group) for group in (pictures, sources))
        raise ValueError(f"{MASK}: found {found}; write one mask of its size for each image: {wanted}")
    for mask in pictures:
        if mask.has_alpha and (mask.pixels(None)[..., 3] != 255).any():
            raise ValueError(f"{MASK} is transparent; write one without transparency, white where it may change")
    try:
        return [mask.mask() for mask in pictures]
    except ImageError as error:
        raise ImageError(f"{MASK}: {error}") from None


def _in_levels(mask: ImageInput) -> ImageInput:
    """Scale a mask in floating point, a PIL image or an array, from [0, 1] to uint8; others stay as they are."""
    values = np.asarray(mask) if isinstance(mask, Image.Image) and mask.mode == "F" else mask
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or not ((values >= 0) & (values <= 1)).all():
        return mask
    return np.rint(values * 255).astype(np.uint8)


def as_type(results: Sequence[np.ndarray], output_type: str) -> Any:
    """Convert uint8 results to the output type of diffusers."""
    if output_type == "pil":
        return [Image.fromarray(result) for result in results]
    arrays = np.stack([result[..., :3] for result in results]).astype(np.float32) / 255
    return arrays if output_type == "np" else torch.from_numpy(arrays).permute(0, 3, 1, 2)


def check_inputs(
    prompts: Sequence[str], images: Sequence[ImageInput], copies: int, generator: Generators, output_type: str
) -> None:
    """Raise ValueError for inputs that would fail or mislead later."""
    if len(prompts) != len(images):
        raise ValueError(f"{len(prompts)} prompts for {len(images)} images; write one prompt for each image")
    if other := [prompt for prompt in prompts if not isinstance(prompt, str)]:
        raise ValueError(f"prompt is {other[0]!r:.80}; write a text, or a list of one for each image")
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError("a prompt is empty; write what to change in the picture")
    if not isinstance(copies, Integral) or isinstance(copies, bool) or copies < 1:
        raise ValueError(f"num_images_per_prompt is {copies!r}; write a whole number, 1 or more")
    count = len(images) * copies
    for each in generator if isinstance(generator, list | tuple) else [generator]:
        if not isinstance(each, torch.Generator | None):
            raise ValueError(f"generator is {each!r:.80}; write torch.Generator().manual_seed(0), or a list of such")
    if isinstance(generator, list | tuple) and len(generator) != count:
        raise ValueError(f"{len(generator)} generators for {count} pictures; write one for each, or one for all")
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"output_type is {output_type!r}; write 'pil', 'np', 'pt' or 'latent'")
