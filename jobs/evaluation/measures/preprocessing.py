"""Pictures as the measures take them: RGB, resized and cropped in Pillow as torchvision does, tensors in [0, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Picture = Image.Image | np.ndarray
"""PIL image, or uint8 RGB [H, W, 3]."""
Size = tuple[int, int]
"""Width and height in pixels, as Pillow orders them."""


@dataclass(frozen=True)
class EncoderInput:
    """Preprocessing of a published image encoder: resized, cropped in the center, normalized."""

    short: int
    """Pixels of the short side after resizing; the long side keeps the proportion, rounded down."""
    side: int
    """Pixels of the square that is cropped."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, picture: Picture) -> Tensor:
        """Preprocess one picture to float32 [3, side, side].

        Source: torchvision's Resize (bicubic), CenterCrop, ToTensor and Normalize on PIL images.
        """
        image = as_rgb(picture)
        least = min(image.size)
        width, height = (int(self.short * length / least) for length in image.size)
        # int(round()) of half a pixel goes to the even number, as in torchvision
        left, top = (int(round((length - self.side) / 2)) for length in (width, height))
        square = resized(image, (width, height)).crop((left, top, left + self.side, top + self.side))
        mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        return (as_tensor(square) - mean) / std

    def batch(self, pictures: Sequence[Picture]) -> Tensor:
        """Preprocess B pictures of any sizes to float32 [B, 3, side, side]."""
        return torch.stack([self(picture) for picture in pictures])


def as_rgb(picture: Picture) -> Image.Image:
    """Convert to a PIL image in RGB; transparency is dropped.

    Raises:
        ValueError: an array is not uint8 [H, W, 3].
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(f"found an array {picture.dtype} {list(picture.shape)}; give uint8 RGB [H, W, 3]")
    return Image.fromarray(picture)


def resized(picture: Picture, size: Size) -> Image.Image:
    """Resize to a width and height with Pillow's bicubic filter; a picture of that size keeps its pixels."""
    image = as_rgb(picture)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def as_tensor(picture: Picture) -> Tensor:
    """Convert to float32 [3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(as_rgb(picture))).permute(2, 0, 1).contiguous().float() / 255


def as_pair(output: Picture, reference: Picture, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Convert an output and its reference to float32 [3, H, W] of the reference's size, both times `kept`, [H, W]."""
    pair = as_tensor(resized(output, as_rgb(reference).size)), as_tensor(reference)
    return pair if kept is None else (pair[0] * kept, pair[1] * kept)
