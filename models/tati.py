"""TATI, Time-Aware Target Injection: edit tokens e_t to timed tokens c_t of each denoising step."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from fireedit.models.layers.component import Component
from fireedit.models.layers.invariant import attend, make_invariant


@dataclass(frozen=True, kw_only=True)
class TATIConfig:
    depth: int = 2
    """Resampler layers (paper: 2)."""
    width: int = 768
    """Channels of edit tokens and of this module; the UNet's cross attention reads the same."""
    queries: int = 77
    heads: int = 8
    mlp_ratio: int = 4
    time_channels: int = 320
    """Sines and cosines of the timestep."""
    time_width: int = 1280
    """Channels of the time embedding; at the paper's size equal to the UNet's."""


class AdaptiveLayerNorm(nn.Module):
    """LayerNorm whose scale and shift come from the time embedding; starts as a plain LayerNorm."""

    def __init__(self, width: int, time_width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(time_width, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(time))[:, None].chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class TATILayer(nn.Module):
    """Attention of queries to themselves and the edit tokens, then an MLP with squared ReLU; all norms are timed."""

    def __init__(self, config: TATIConfig):
        super().__init__()
        width, time_width = config.width, config.time_width
        self.query_norm = AdaptiveLayerNorm(width, time_width)
        self.token_norm = AdaptiveLayerNorm(width, time_width)
        self.attention = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.mlp_norm = AdaptiveLayerNorm(width, time_width)
        self.mlp_in = nn.Linear(width, config.mlp_ratio * width)
        self.mlp_out = nn.Linear(config.mlp_ratio * width, width)

    def forward(self, queries: Tensor, tokens: Tensor, time: Tensor) -> Tensor:
        normed = self.query_norm(queries, time)
        keys = torch.cat([normed, self.token_norm(tokens, time)], dim=1)
        queries = queries + attend(self.attention, normed, keys)
        return queries + self.mlp_out(F.relu(self.mlp_in(self.mlp_norm(queries, time))).square())


class TATI(Component, ModelMixin):
    """Stacked resamplers, timed by adaptive LayerNorm; c_t = e_t + their output.

    Source: FireEdit (arXiv 2503.19839); the layers follow ELLA's connector (arXiv 2403.05135). Departure: the paper
        replaces e_t; here a zero-initialized projection adds to it, so that stage 3 starts exactly where stage 2 ended.
    """

    config_class = TATIConfig

    def __init__(self, config: TATIConfig):
        super().__init__(config)
        width, time_width = config.width, config.time_width
        self.time_sines = Timesteps(config.time_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(config.time_channels, time_width)
        self.query_tokens = nn.Parameter(width**-0.5 * torch.randn(1, config.queries, width))
        self.query_time = nn.Linear(time_width, width)
        self.token_in = nn.Linear(width, width)
        self.layers = nn.ModuleList(TATILayer(config) for _ in range(config.depth))
        self.out_norm = nn.LayerNorm(width)
        self.token_out = nn.Linear(width, width)
        nn.init.zeros_(self.token_out.weight)
        nn.init.zeros_(self.token_out.bias)
        make_invariant(self)

    def forward(self, edit_tokens: Tensor, timesteps: Tensor) -> Tensor:
        """Map edit tokens [B, queries, width] and timesteps [B], also fractional, to timed tokens of the same shape."""
        time = self.time_embedding(self.time_sines(timesteps).to(edit_tokens.dtype))
        queries = self.query_tokens + self.query_time(F.silu(time))[:, None]
        tokens = self.token_in(edit_tokens)
        for layer in self.layers:
            queries = layer(queries, tokens, time)
        return edit_tokens + self.token_out(self.out_norm(queries))
