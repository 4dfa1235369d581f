"""Evaluation of MagicBrush in plain Pillow and NumPy, and pictures to compare it on."""

import numpy as np
import torch
from PIL import Image
from torch import nn

SIZES = ((300, 224), (225, 302), (97, 131), (331, 333), (224, 224), (640, 427))
"""Widths and heights: landscape, portrait, odd, smaller and larger than the encoders' pictures."""


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Draw smooth colors with some noise, so that resizing and cropping matter."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 5, 3), np.uint8)).resize((width, height))
    noisy = np.asarray(coarse, np.float64) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def pairs() -> list[tuple[Image.Image, Image.Image]]:
    """Outputs and references; half of the outputs have another size than their reference."""
    outputs = [photo(*size, seed) for seed, size in enumerate(SIZES)]
    references = [photo(*size, 50 + seed) for seed, size in enumerate((*SIZES[:3], *reversed(SIZES[:3])))]
    return list(zip(outputs, references, strict=True))


def unit_pixels(image: Image.Image) -> np.ndarray:
    """Convert to float32 [3, H, W] in [0, 1]."""
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def view(image: Image.Image, short: int, mean: list[float], std: list[float]) -> torch.Tensor:
    """Resize the short side, crop 224 pixels in the center and normalize, to [1, 3, 224, 224]."""
    if image.width <= image.height:
        image = image.resize((short, int(short * image.height / image.width)), Image.Resampling.BICUBIC)
    else:
        image = image.resize((int(short * image.width / image.height), short), Image.Resampling.BICUBIC)
    top, left = round((image.height - 224) / 2), round((image.width - 224) / 2)
    pixels = unit_pixels(image)[:, top : top + 224, left : left + 224]
    center, spread = np.array(mean, np.float32), np.array(std, np.float32)
    return torch.from_numpy((pixels - center[:, None, None]) / spread[:, None, None])[None]


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    """Compute one less the cosine distance of two vectors."""
    a, b = first.double().numpy().ravel(), second.double().numpy().ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def draw_weights(module: nn.Module) -> None:
    """Draw weights under which pictures differ, as fresh ones leave them nearly equal."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_matrix = parameter.dim() > 1 and "position" not in name and "cls" not in name
            parameter.normal_(0, 0.3 if is_matrix else 0.1, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
