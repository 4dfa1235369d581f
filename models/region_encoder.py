"""R: the region encoder, one token of the VLM's width per box, pooled from three of the vision tower's maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from fireedit.models.layers.boxes import to_cxcywh
from fireedit.models.layers.component import Component
from fireedit.models.layers.roi_align import roi_align
from fireedit.models.vision import VisionFeatures


@dataclass(frozen=True, kw_only=True)
class RegionEncoderConfig:
    width: int = 1024
    """Channels of the vision tower's maps (DINOv2-L), and inside the pyramid."""
    width_out: int = 4096
    """Channels of a region token; the VLM must read the same."""
    levels: int = 3
    """Deepest maps that are read, each enlarged to another size."""
    fuse_blocks: int = 5
    groups: int = 64
    """Groups of the fuse blocks' GroupNorm."""
    roi_size: int = 14
    """Bins along each side of a box."""
    token_width: int = 1024
    """Channels of a token before the last layer."""
    box_width: int = 256
    """Hidden channels of the box embedding."""
    groma_compat: bool = False
    """Pool as Groma's released weights were trained, with both errors of its code; see RegionPooling."""


class RegionEncoder(Component, ModelMixin):
    """GPT4RoI's pyramid as in Groma: enlarge, fuse across levels, pool each box, flatten to one token.

    288,653,056 parameters at the paper's size, under Groma's names.
    Source: FoundationVision/Groma @d3a95b6, groma/model/roi_align.py.
    """

    config_class = RegionEncoderConfig

    def __init__(self, config: RegionEncoderConfig):
        super().__init__(config)
        self.mlvl_fuse = PyramidFusion(config)
        self.roi_align = RegionPooling(config)

    def forward(self, features: VisionFeatures, boxes: Sequence[Tensor]) -> list[Tensor]:
        """Encode every box of every image, from the last `levels` maps.

        Args:
            boxes: for each image [R_b, 4] xyxy in [0, 1] of its sides.
        Returns:
            for each image [R_b, width_out], in the order of its boxes.
        """
        assert len(boxes) == len(features), f"{len(boxes)} lists of boxes for {len(features)} images"
        pyramid = self.mlvl_fuse(_enlarge(features.maps[-len(self.mlvl_fuse.input_conv) :]))
        counts = [len(image_boxes) for image_boxes in boxes]
        batch_index = torch.arange(len(boxes)).repeat_interleave(torch.tensor(counts))
        return list(self.roi_align(pyramid, torch.cat(list(boxes)), batch_index).split(counts))


class PyramidFusion(nn.Module):
    """Adds coordinates to every cell, then swaps channels between neighboring levels, block by block."""

    def __init__(self, config: RegionEncoderConfig):
        super().__init__()
        width = config.width
        self.swapped = width // 4
        self.input_conv = nn.ModuleList([nn.Conv2d(width + 2, width, kernel_size=1) for _ in range(config.levels)])
        self.fuse_convs = nn.ModuleList([FuseBlock(width, config.groups) for _ in range(config.fuse_blocks)])

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        """Fuse the levels [B, C, h_l, w_l] -> the same shapes."""
        placed = [torch.cat([level, _coordinates(level)], dim=1) for level in pyramid]
        pyramid = [project(level) for project, level in zip(self.input_conv, placed, strict=True)]
        for block in self.fuse_convs:  # one block serves all levels
            pyramid = [block(self._swap(pyramid, index)) for index in range(len(pyramid))]
        return pyramid

    def _swap(self, pyramid: list[Tensor], index: int) -> Tensor:
        """Concatenate a level's own channels with those of the next smaller and the next larger level.

        The ends of the pyramid swap with themselves.
        """
        level, own = pyramid[index], pyramid[index].shape[1] - 2 * self.swapped
        smaller, larger = pyramid[min(index + 1, len(pyramid) - 1)], pyramid[max(index - 1, 0)]
        from_smaller = _resize(smaller[:, own + self.swapped :], level.shape[-2:])
        from_larger = _resize(larger[:, own : own + self.swapped], level.shape[-2:])
        return torch.cat([level[:, :own], from_smaller, from_larger], dim=1)


class FuseBlock(nn.Module):
    """3x3 convolution, GroupNorm, ReLU."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.gn = nn.GroupNorm(groups, width)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.gn(self.conv(features)))


class RegionPooling(nn.Module):
    """Pools each box from every level, sums over levels, and flattens to one token plus an embedding of the box.

    `groma_compat` repeats two errors of Groma's code, to which its released weights are trained: the (center x,
    center y, width, height) of a box is pooled as if it were (left, top, right, bottom), and every level is read as if
    it were twice as large as it is. Groma's author confirms the first (issue #11).
    """

    def __init__(self, config: RegionEncoderConfig):
        super().__init__()
        width, token_width = config.width, config.token_width
        self.roi_size, self.groma_compat = config.roi_size, config.groma_compat
        self.pconvs = nn.ModuleList([nn.Conv2d(width, width, kernel_size=3, padding=1) for _ in range(config.levels)])
        self.pos_embedd = nn.Sequential(
            nn.Linear(4, config.box_width),
            nn.ReLU(),
            nn.LayerNorm(config.box_width),
            nn.Linear(config.box_width, token_width),
            nn.ReLU(),
            nn.LayerNorm(token_width),
        )
        self.flatten_linear = nn.Linear(width * config.roi_size**2, token_width)
        self.updims = nn.Linear(token_width, config.width_out)
        for parameter in self.pconvs.parameters():
            nn.init.normal_(parameter, std=0.01 if parameter.dim() > 1 else 0)

    def forward(self, pyramid: list[Tensor], boxes: Tensor, batch_index: Tensor) -> Tensor:
        """Pool levels [B, C, h_l, w_l] in boxes [N, 4] xyxy in [0, 1] of images batch_index [N] -> [N, width_out]."""
        pooled = [conv(self._pool(level, boxes, batch_index)) for conv, level in zip(self.pconvs, pyramid, strict=True)]
        tokens = self.flatten_linear(F.relu(sum(pooled)).flatten(1))
        return self.updims(tokens + self.pos_embedd(to_cxcywh(boxes).to(tokens.dtype)))

    def _pool(self, level: Tensor, boxes: Tensor, batch_index: Tensor) -> Tensor:
        """Pool one level [B, C, h, w] -> [N, C, roi_size, roi_size]."""
        height, width = level.shape[-2:]
        assert height == width, f"RegionPooling takes square maps, this one has {height} x {width} cells"
        if self.groma_compat:
            return roi_align(level, to_cxcywh(boxes), batch_index, self.roi_size, spatial_scale=2 * width)
        return roi_align(level, boxes, batch_index, self.roi_size, spatial_scale=width)


def _enlarge(maps: Sequence[Tensor]) -> list[Tensor]:
    """Enlarge maps of one size to a pyramid: the last keeps its size, each one before is twice as large as the next."""
    height, width = maps[0].shape[-2:]
    factors = [2**level for level in reversed(range(len(maps)))]
    return [_resize(level, (height * factor, width * factor)) for level, factor in zip(maps, factors, strict=True)]


def _resize(features: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=True)


def _coordinates(features: Tensor) -> Tensor:
    """Compute [B, 2, h, w], the x and y of every cell in [-1, 1]."""
    y, x = (torch.linspace(-1, 1, size, device=features.device) for size in features.shape[-2:])
    grid = torch.meshgrid(x, y, indexing="xy")
    return torch.stack(grid).to(features.dtype).expand(len(features), -1, -1, -1)
