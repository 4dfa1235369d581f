"""mu(x): the frozen encoders that look at the picture, DINOv2 for everything and CLIP for visual detail."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from fireedit.models.layers.component import Component

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    image_size: int = 448
    """Side of the square view, pixels; the picture is squashed to it."""
    detail_size: int = 224
    """Side of the second, coarser view that HVCA also sees."""
    patch_size: int = 14
    """Of both encoders."""
    dino_width: int = 1024
    dino_layers: int = 24
    dino_heads: int = 16
    dino_mlp_ratio: int = 4
    dino_image_size: int = 518
    """Size that DINOv2's position embeddings were trained for; others are interpolated."""
    clip_width: int = 1024
    clip_mlp_width: int = 4096
    clip_layers: int = 24
    clip_heads: int = 16
    clip_image_size: int = 224


@dataclass(frozen=True)
class VisionFeatures:
    """What the encoders saw in a batch of pictures."""

    image_tokens: Tensor
    """[B, N / 4, 4 W]: DINOv2's last raw states, each 2 x 2 patches side by side on the channels."""
    maps: tuple[Tensor, ...]
    """The last four raw DINOv2 states, shallow to deep, each [B, W, h, w]."""
    detail: tuple[Tensor, ...]
    """HVCA's sources (CLIP coarse, CLIP fine, DINOv2 coarse, DINOv2 fine), each [B, N_i, W_i]; () if not asked for.
    DINOv2's are the only states that have passed the final LayerNorm."""


class Vision(Component, ModelMixin):
    """The frozen vision tower. Tokens and maps are raw states, before the final LayerNorm; the class token is left out.

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

    def forward(self, view: Tensor, detail: bool = True) -> VisionFeatures:
        """Look at `view`, uint8 RGB [B, S, S, 3] with S = config.image_size; `detail` also runs what HVCA needs."""
        assert view.dtype == torch.uint8 and view.shape[1:] == (self.config.image_size,) * 2 + (3,), view.shape
        pixels = view.permute(0, 3, 1, 2).float() / 255
        dino = self.dino(self._normalise(pixels, IMAGENET_MEAN, IMAGENET_STD), output_hidden_states=True)
        maps = tuple(self._as_map(states) for states in dino.hidden_states[-4:])
        sources = self._detail(pixels, dino.last_hidden_state[:, 1:]) if detail else ()
        return VisionFeatures(image_tokens=merge_patches(maps[-1]), maps=maps, detail=sources)

    def _detail(self, pixels: Tensor, dino_fine: Tensor) -> tuple[Tensor, ...]:
        size = (self.config.detail_size,) * 2
        coarse = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        dino_coarse = self.dino(self._normalise(coarse, IMAGENET_MEAN, IMAGENET_STD)).last_hidden_state[:, 1:]
        return self._clip_states(coarse), self._clip_states(pixels), dino_coarse, dino_fine

    def _clip_states(self, pixels: Tensor) -> Tensor:
        """Last but one layer of CLIP; sizes other than its own interpolate its position embeddings."""
        normalised = self._normalise(pixels, CLIP_MEAN, CLIP_STD)
        output = self.clip(normalised, output_hidden_states=True, interpolate_pos_encoding=True)
        return output.hidden_states[-2][:, 1:]

    def _normalise(self, pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        centre, spread = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (mean, std))
        return ((pixels - centre) / spread).to(self.dtype)

    def _as_map(self, states: Tensor) -> Tensor:
        return states[:, 1:].transpose(1, 2).unflatten(2, (self.side, self.side))


def merge_patches(features: Tensor) -> Tensor:
    """[B, W, h, w] to [B, h w / 4, 4 W]: patches (0, 0), (1, 0), (0, 1), (1, 1) of each 2 x 2 block on the channels."""
    grid = features.permute(0, 2, 3, 1)
    corners = (grid[:, 0::2, 0::2], grid[:, 1::2, 0::2], grid[:, 0::2, 1::2], grid[:, 1::2, 1::2])
    return torch.cat(corners, dim=-1).flatten(1, 2)
