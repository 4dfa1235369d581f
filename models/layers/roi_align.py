"""RoIAlign in plain torch, no compiled kernel: a fixed number of samples per box, any device, any float dtype."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fireedit.models.layers.device import to_device

SAMPLES = 2
"""Samples along each side of a bin."""
CHUNK = 8
"""Images sampled at once: at the paper's sizes they take 2.6 GB, and fewer leave a GPU waiting for launches."""


def roi_align(features: Tensor, boxes: Tensor, batch_index: Tensor, output_size: int, spatial_scale: float) -> Tensor:
    """Pool boxes from feature maps to maps of one size: bilinear samples, averaged in each bin.

    Samples in float32 (on a map of 128 cells a bfloat16 location is off by up to a quarter of a cell) and returns the
    dtype of `features`. All boxes of an image share one sampling grid, so that no map is copied for each box.

    Args:
        features: [B, C, H, W].
        boxes: [N, 4] xyxy in pixels of the image, whose side times `spatial_scale` is the map's side.
        batch_index: [N] int64 on the CPU, the image of each box.
        output_size: bins along each side of a box.
        spatial_scale: cells of the map per pixel of the image, 1 / stride.
    Returns:
        [N, C, output_size, output_size], in the order of `boxes`.
    Source: mmcv's CUDA kernel with aligned=True, pool_mode="avg". Like it, and unlike mmcv's CPU kernel, a box whose
        right is less than its left is sampled mirrored: Groma's released weights were trained on such boxes.
    """
    corners = boxes.float() * spatial_scale - 0.5  # whole numbers are the centers of cells
    own = F.one_hot(batch_index, len(features))
    slots = (own.cumsum(dim=0) * own).sum(dim=1) - 1  # [N], place of each box among those of its image
    padded = corners.new_zeros(len(features), max(int(own.sum(dim=0).max()), 1), 4)
    place = to_device(batch_index, corners.device), to_device(slots, corners.device)
    padded[place] = corners
    chunks = zip(features.split(CHUNK), padded.split(CHUNK), strict=True)
    return torch.cat([_pool_images(*chunk, output_size) for chunk in chunks])[place]


def _pool_images(features: Tensor, corners: Tensor, output_size: int) -> Tensor:
    """Pool corners [B, R, 4] xyxy, in cells, from images [B, C, H, W] -> [B, R, C, output_size, output_size]."""
    height, width = features.shape[-2:]
    left, top, right, bottom = corners.unbind(dim=-1)
    columns = _sample_positions(left, right, output_size * SAMPLES)
    rows = _sample_positions(top, bottom, output_size * SAMPLES)
    # A sample up to one cell outside takes the border's value; one further out is zero.
    inside = ((rows >= -1) & (rows <= height))[..., :, None] & ((columns >= -1) & (columns <= width))[..., None, :]
    x = _to_grid(columns, width)[..., None, :].expand(inside.shape)
    y = _to_grid(rows, height)[..., :, None].expand(inside.shape)
    grid = torch.stack([x, y], dim=-1).flatten(1, 2)
    samples = F.grid_sample(features.float(), grid, padding_mode="border", align_corners=False)
    bins = F.avg_pool2d(samples.mul_(inside.flatten(1, 2)[:, None]), SAMPLES)
    return bins.unflatten(2, (corners.shape[1], output_size)).transpose(1, 2).to(features.dtype)


def _sample_positions(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Compute [..., steps]: the centers of equal steps from start to end, both [...]."""
    centers = (torch.arange(steps, device=start.device) + 0.5) / steps
    return start[..., None] + centers * (end - start)[..., None]


def _to_grid(positions: Tensor, size: int) -> Tensor:
    """Convert cells, clamped to the map, to grid_sample's [-1, 1] from edge to edge."""
    return (positions.clamp(0, size - 1) + 0.5) * 2 / size - 1
