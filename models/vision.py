"""mu(x): the frozen image encoders, DINOv2 for tokens and regions and CLIP for HVCA's visual detail."""

import math
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

from fireedit.models.layers.component import Component

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Sources = Literal["coarse", "fine", "both"]
"""Views whose CLIP and DINOv2 features HVCA reads: that of `detail_size`, that of `image_size`, or both."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    image_size: int = 448
    """Side of the square view, pixels; the image is squashed to it."""
    detail_size: int = 224
    """Side of the second, coarser view that HVCA also reads, pixels."""
    patch_size: int = 14
    """Patch side of both encoders, pixels."""
    dino_width: int = 1024
    dino_layers: int = 24
    dino_heads: int = 16
    dino_mlp_ratio: int = 4
    dino_image_size: int = 518
    """Image size of DINOv2's position embeddings, pixels; other sizes are interpolated."""
    clip_width: int = 1024
    clip_mlp_width: int = 4096
    clip_layers: int = 24
    clip_heads: int = 16
    clip_image_size: int = 224
    groma_compat: bool = False
    """Interpolate DINOv2's position embeddings as transformers 4.32 did, with which Groma's released weights were
    trained; the hidden states differ by about 1 %. See ScaledPositions."""


@dataclass(frozen=True)
class VisionFeatures:
    """Features of B images."""

    image_tokens: Tensor
    """[B, N / 4, 4 W]: DINOv2's last raw states, each 2 x 2 patches concatenated on the channels."""
    maps: tuple[Tensor, ...]
    """The last four raw DINOv2 states, shallow to deep, each [B, W, h, w]."""
    detail: tuple[Tensor, ...]
    """HVCA's sources, each [B, N_i, W_i]: CLIP coarse, CLIP fine, DINOv2 coarse, DINOv2 fine, or those of one view; ()
    where not computed. DINOv2's are the only states that have passed the final LayerNorm."""

    def __len__(self) -> int:
        return len(self.image_tokens)

    def __getitem__(self, images: slice) -> Self:
        """Select some images of the batch."""
        return type(self)(
            image_tokens=self.image_tokens[images],
            maps=tuple(states[images] for states in self.maps),
            detail=tuple(source[images] for source in self.detail),
        )


class Vision(Component, ModelMixin):
    """Frozen vision tower. Tokens and maps are raw states, before the final LayerNorm, without the class token.

    Source: Groma (arXiv 2404.13013) for the DINOv2 states and the 2 x 2 merge; IP-Adapter-Plus for CLIP's last but one.
    """

    config_class = VisionConfig

    def __init__(self, config: VisionConfig):
        super().__init__(config)
        self.side = config.image_size // config.patch_size
        self.dino = Dinov2Model(
            Dinov2Config(
                hidden_size=config.dino_width,
                num_hidden_layers=config.dino_layers,
                num_attention_heads=config.dino_heads,
                mlp_ratio=config.dino_mlp_ratio,
                image_size=config.dino_image_size,
                patch_size=config.patch_size,
            )
        )
        if config.groma_compat:
            self.dino.embeddings.__class__ = ScaledPositions
        self.clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config.clip_width,
                intermediate_size=config.clip_mlp_width,
                num_hidden_layers=config.clip_layers,
                num_attention_heads=config.clip_heads,
                image_size=config.clip_image_size,
                patch_size=config.patch_size,
            )
        )

    def forward(self, view: Tensor, detail: Sources | None = None) -> VisionFeatures:
        """Encode `view`, uint8 RGB [B, S, S, 3] with S = config.image_size; `detail` also computes these sources."""
        assert view.dtype == torch.uint8 and view.shape[1:] == (self.config.image_size,) * 2 + (3,), view.shape
        pixels = view.permute(0, 3, 1, 2).float() / 255
        dino = self.dino(self._normalize(pixels, IMAGENET_MEAN, IMAGENET_STD), output_hidden_states=True)
        grids = (states[:, 1:].unflatten(1, (self.side, self.side)) for states in dino.hidden_states[-4:])
        maps = tuple(grid.permute(0, 3, 1, 2) for grid in grids)
        sources = self._detail(pixels, dino.last_hidden_state[:, 1:], detail) if detail else ()
        return VisionFeatures(image_tokens=merge_patches(maps[-1]), maps=maps, detail=sources)

    def _detail(self, pixels: Tensor, dino_fine: Tensor, sources: Sources) -> tuple[Tensor, ...]:
        if sources == "fine":
            return self._clip_states(pixels), dino_fine
        size = (self.config.detail_size,) * 2
        coarse = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        dino_coarse = self.dino(self._normalize(coarse, IMAGENET_MEAN, IMAGENET_STD)).last_hidden_state[:, 1:]
        if sources == "coarse":
            return self._clip_states(coarse), dino_coarse
        return self._clip_states(coarse), self._clip_states(pixels), dino_coarse, dino_fine

    def _clip_states(self, pixels: Tensor) -> Tensor:
        """States of CLIP's last but one layer; position embeddings are interpolated to other image sizes."""
        normalized = self._normalize(pixels, CLIP_MEAN, CLIP_STD)
        output = self.clip(normalized, output_hidden_states=True, interpolate_pos_encoding=True)
        return output.hidden_states[-2][:, 1:]

    def _normalize(self, pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        channels = zip(pixels.unbind(dim=1), mean, std, strict=True)
        return torch.stack([(channel - center) / spread for channel, center, spread in channels], dim=1).to(self.dtype)


class ScaledPositions(Dinov2Embeddings):
    """Embeddings of DINOv2 whose positions are interpolated by a factor, as in transformers 4.32.

    The factor is that of a grid larger by a tenth of a cell, which was to keep rounding errors from losing a cell.
    Every position is sampled a little nearer to the upper left corner than one interpolated to a size.
    """

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Return position embeddings [1, 1 + h w, W] of an image of height x width pixels."""
        table = self.position_embeddings
        side = math.isqrt(table.shape[1] - 1)
        cells = [
            pixels // patch for pixels, patch in zip((height, width), self.patch_embeddings.patch_size, strict=True)
        ]
        if cells == [side, side]:
            return table
        grid = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
        factors = [(count + 0.1) / side for count in cells]
        scaled = F.interpolate(grid, scale_factor=factors, mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], scaled.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def merge_patches(features: Tensor) -> Tensor:
    """Merge [B, W, h, w] to [B, h w / 4, 4 W]: patches (0, 0), (1, 0), (0, 1), (1, 1) of a block on the channels."""
    grid = features.permute(0, 2, 3, 1)
    corners = (grid[:, 0::2, 0::2], grid[:, 1::2, 0::2], grid[:, 0::2, 1::2], grid[:, 1::2, 1::2])
    return torch.cat(corners, dim=-1).flatten(1, 2)
