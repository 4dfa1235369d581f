"""HVCA, Hybrid Visual Cross Attention: detail tokens v gathered from CLIP and DINOv2 at one resolution or two."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor, nn

from fireedit.models.layers.component import Component
from fireedit.models.vision import Sources


@dataclass(frozen=True, kw_only=True)
class HVCAConfig:
    depth: int = 2
    """Layers (paper: 2)."""
    queries: int = 16
    source_widths: tuple[int, ...] = (1024, 1024, 1024, 1024)
    """Channels of CLIP coarse and fine, DINOv2 coarse and fine; all four, whatever `sources` reads of them."""
    sources: Sources = "both"
    """Views that are read: in the paper's Table 2 `coarse` is 224 pixels, `fine` 448, `both` the full model."""
    width: int = 1024
    heads: int = 16
    text_width: int = 768
    """Channels of the edit tokens that the queries read first."""
    output_width: int = 768
    """Channels of the detail tokens; the UNet's image attention reads the same."""
    mlp_ratio: int = 4
    null_detail: bool = False
    """True if v is made from the null tokens where text is dropped, in training and in guidance; False: from the edit
    tokens, whose instruction then still shows in v, as in SmartEdit's code. The paper is silent."""

    @property
    def read(self) -> tuple[int, ...]:
        """Places in `source_widths` of the sources that are read."""
        return {"coarse": (0, 2), "fine": (1, 3), "both": (0, 1, 2, 3)}[self.sources]


class CrossAttention(nn.Module):
    """Attention of queries to normalized keys; no biases, as in IP-Adapter-Plus."""

    def __init__(self, width: int, key_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.key_norm, self.query_norm = nn.LayerNorm(key_width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(key_width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        key, value = self.to_kv(self.key_norm(keys)).chunk(2, dim=-1)
        query = self.to_q(self.query_norm(queries))
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class HVCALayer(nn.Module):
    """Queries attend to the edit tokens, then to the visual features, then pass an MLP."""

    def __init__(self, config: HVCAConfig):
        super().__init__()
        width, hidden = config.width, config.mlp_ratio * config.width
        self.read_text = CrossAttention(width, config.text_width, config.heads)
        self.read_picture = CrossAttention(width, width, config.heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, width, bias=False)
        )

    def forward(self, queries: Tensor, edit_tokens: Tensor, features: Tensor) -> Tensor:
        queries = queries + self.read_text(queries, edit_tokens)
        queries = queries + self.read_picture(queries, features)
        return queries + self.mlp(queries)


class HVCA(Component, ModelMixin):
    """Learnable queries that read the edit tokens first and the hybrid visual features second, once per edit.

    Source: FireEdit (arXiv 2503.19839). The paper leaves states and blocks open; they follow IP-Adapter-Plus
        (arXiv 2308.06721), sized so that stage 3 trains as many parameters as the paper's Table 1 counts.
    """

    config_class = HVCAConfig

    def __init__(self, config: HVCAConfig):
        super().__init__(config)
        self.query_tokens = nn.Parameter(config.width**-0.5 * torch.randn(1, config.queries, config.width))
        inputs = {str(place): nn.Linear(config.source_widths[place], config.width) for place in config.read}
        self.source_in = nn.ModuleDict(inputs)  # named by place, so that weights of other sources do not load
        self.layers = nn.ModuleList(HVCALayer(config) for _ in range(config.depth))
        self.project_out = nn.Linear(config.width, config.output_width)
        self.norm_out = nn.LayerNorm(config.output_width)

    @property
    def untrained(self) -> bool:
        """True for weights as they were drawn: the last norm begins without a bias, and the first gradient moves it."""
        return not self.norm_out.bias.any()

    def forward(self, sources: Sequence[Tensor], edit_tokens: Tensor) -> Tensor:
        """Gather sources [B, N_i, W_i] by edit tokens [B, T, text_width] into [B, queries, output_width].

        Args:
            sources: as `Vision` computes them for `config.sources`.
        """
        features = torch.cat([project(x) for project, x in zip(self.source_in.values(), sources, strict=True)], dim=1)
        queries = self.query_tokens.expand(len(features), -1, -1)
        for layer in self.layers:
            queries = layer(queries, edit_tokens, features)
        return self.norm_out(self.project_out(queries))
