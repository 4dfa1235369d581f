"""LPIPS v0.1: learned perceptual distance under the trunk of AlexNet or SqueezeNet 1.1 (arXiv 1801.03924).

Source: richzhang/PerceptualSimilarity for the measure, torchvision for the trunks.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fireedit.jobs.evaluation.measures.preprocessing import Picture, as_pair, as_rgb
from fireedit.models.checkpoint_files import CheckpointFileError, read_tensors
from fireedit.models.weights import load_strict

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Per channel mean and spread of ImageNet's pictures in [-1, 1]."""
NORM_EPS = 1e-10
"""Value added to the norm of a pixel's channels."""
MIN_SIDE = 32
"""Pixels of the shortest side that leaves each trunk an activation on its last level."""


@dataclass(frozen=True)
class Net:
    """Trunk of an LPIPS with its published file."""

    file: str
    """Name of torchvision's state dict, also on download.pytorch.org/models."""
    title: str
    levels: tuple[int, ...]
    """Indices in `features` whose outputs are compared."""
    channels: tuple[int, ...]
    """Channels of each level."""


NETS = {
    "alex": Net("alexnet-owt-7be5be79.pth", "AlexNet", (1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "squeeze": Net(
        "squeezenet1_1-b8a52dc0.pth", "SqueezeNet 1.1", (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)
    ),
}


class LPIPS:
    """Frozen LPIPS; 0 for equal pictures. ReasonEdit's net is `squeeze`, that of torchmetrics."""

    def __init__(self, folder: Path, net: str, device: torch.device | str = "cpu"):
        """
        Args:
            folder: torchvision's trunk under its published name (see `NETS`), and `alex.pth` or `squeeze.pth` from the
                folder lpips/weights/v0.1 of the package lpips.
            net: a name in `NETS`.
        Raises:
            ValueError: there is no such net.
            CheckpointFileError: a file is missing, damaged, or not what its name says.
            WeightsError: the tensors of a file are of another network.
        """
        if net not in NETS:
            raise ValueError(f"found net {net!r}; write one of {', '.join(NETS)}")
        self.name, self.device = f"lpips-{net}", torch.device(device)
        files = files_of(folder, net)
        network = _Network(net)
        trunk, heads = (read_tensors(file) for file in files)
        features = {name: tensor for name, tensor in trunk.items() if name.startswith("features.")}
        load_strict(network, features | heads, source=f"{files[0]} (torchvision) and {files[1]} (lpips, v0.1)")
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.weights = _digest(files)

    @torch.no_grad()
    def distance(self, output: Picture, reference: Picture, kept: Tensor | None = None) -> float:
        """Distance of one pair; an output of another size is first resized to the reference's, bicubic.

        Args:
            kept: float [H, W], multiplies the pixels of both.

        Raises:
            ValueError: the reference is too small for the trunk.
        """
        width, height = as_rgb(reference).size
        if min(width, height) < MIN_SIDE:
            raise ValueError(f"found a picture of {width} x {height} pixels; give LPIPS sides of at least {MIN_SIDE}")
        pair = torch.stack(as_pair(output, reference, kept))
        return self.network(2 * pair.to(self.device) - 1).item()


class _Network(nn.Module):
    """Trunk and heads, named as in the published files."""

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str):
        super().__init__()
        self.levels = NETS[net].levels
        self.features = _alexnet() if net == "alex" else _squeezenet()
        for index, channels in enumerate(NETS[net].channels):
            head = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{index}", nn.ModuleDict({"model": head}))
        for name, values in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, pair: Tensor) -> Tensor:
        """Distance, a scalar, of a pair of pictures in [-1, 1], [2, 3, H, W]."""
        states = (pair - self.shift) / self.scale
        distances: list[Tensor] = []
        for index, layer in enumerate(self.features):
            states = layer(states)
            if index in self.levels:
                unit = states / (states.square().sum(dim=1, keepdim=True).sqrt() + NORM_EPS)
                head = self.get_submodule(f"lin{len(distances)}")["model"]  # type: ignore[index]  # a ModuleDict
                distances.append(head((unit[:1] - unit[1:]).square()).mean())
        return torch.stack(distances).sum()


class _Fire(nn.Module):
    """Block of SqueezeNet (arXiv 1602.07360): [B, C, H, W] to [B, 2 * width, H, W] through `squeezed` channels."""

    def __init__(self, channels: int, squeezed: int, width: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, width, 1)
        self.expand3x3 = nn.Conv2d(squeezed, width, 3, padding=1)

    def forward(self, states: Tensor) -> Tensor:
        squeezed = self.squeeze(states).relu()
        return torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], dim=1).relu()


def _alexnet() -> nn.Sequential:
    """Build the trunk of torchvision's AlexNet (arXiv 1404.5997) up to its fifth ReLU."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def _squeezenet() -> nn.Sequential:
    """Build the trunk of torchvision's SqueezeNet 1.1."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(64, 16, 64),
        _Fire(128, 16, 64),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(128, 32, 128),
        _Fire(256, 32, 128),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(256, 48, 192),
        _Fire(384, 48, 192),
        _Fire(384, 64, 256),
        _Fire(512, 64, 256),
    )


def files_of(folder: Path, net: str) -> tuple[Path, Path]:
    """Find the files of trunk and heads.

    Raises:
        CheckpointFileError: one is missing.
    """
    trunk, heads = folder / NETS[net].file, folder / f"{net}.pth"
    if not trunk.is_file():
        link = f"https://download.pytorch.org/models/{trunk.name}"
        raise CheckpointFileError(f"{trunk} is missing; write torchvision's {NETS[net].title} there, {link}")
    if not heads.is_file():
        origin = f"lpips/weights/v0.1/{heads.name} of the package lpips (richzhang/PerceptualSimilarity)"
        raise CheckpointFileError(f"{heads} is missing; write {origin} there")
    return trunk, heads


def _digest(files: Iterable[Path]) -> str:
    """Identify the contents of files, in their order, as `sha256:<hex>`."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"
