"""UNet: Stable Diffusion's, with the source's latents as extra input channels and a second, image cross-attention."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from fireedit.models.layers.component import FromSizes
from fireedit.models.layers.invariant import make_invariant


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of the UNet; the defaults are Stable Diffusion 1.5's, with InstructPix2Pix's input channels."""

    sample_size: int = 64
    """Side of the latents, cells."""
    in_channels: int = 8
    """Channels of the noisy latents and of the source's latents."""
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    layers_per_block: int = 2
    attention_head_dim: int = 8
    """Number of heads of every attention; diffusers' historical name."""
    cross_attention_dim: int = 768
    norm_num_groups: int = 32
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    """Use of the time embedding in a block: added to its channels, or as their scale and shift."""
    reads_last_token: bool = False
    """True if the last condition token is added to the time embedding, so that it modulates every block. CLIP's last
    state depends on the whole text; edit tokens replace it."""
    adds_source: bool = False
    """True if the output is a residual to the source's latents, so that a fresh network copies its source. Needs source
    and target latents of equal scale, and a schedule that predicts clean latents."""
    detail_tokens: int = 16
    """Number of detail tokens v that the image attention reads."""
    detail_scale: float = 1.0
    """Lambda: weight of the image attention beside the text attention (paper: 1)."""


class ImageAttention(nn.Module):
    """Attention of the text attention's queries to detail tokens, with keys and values of its own."""

    def __init__(self, text: Attention):
        super().__init__()
        self.heads = text.heads
        self.to_k = nn.Linear(text.cross_attention_dim, text.inner_dim, bias=False)
        self.to_v = nn.Linear(text.cross_attention_dim, text.inner_dim, bias=False)

    def forward(self, query: Tensor, detail_tokens: Tensor) -> Tensor:
        """Attend [B, N, W] to [B, 16, 768]; the output projection is the text attention's."""
        projected = (query, self.to_k(detail_tokens), self.to_v(detail_tokens))
        query, key, value = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in projected)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class DecoupledAttention(Attention):
    """Cross-attention to text and image: text attention + lambda * image attention, through one output projection.

    The text attention runs in whatever processor diffusers sets; processors hold no weights.
    """

    image_attention: ImageAttention
    detail_scale: float

    @classmethod
    def extend(cls, text: Attention, detail_scale: float) -> None:
        """Turn a text attention into a decoupled one; its weights and their names stay."""
        text.__class__ = cls
        text.image_attention, text.detail_scale = ImageAttention(text), detail_scale

    def start_as_no_op(self) -> None:
        """Initialize the image attention with the text attention's keys and zero values."""
        with torch.no_grad():
            self.image_attention.to_k.weight.copy_(self.to_k.weight)
            nn.init.zeros_(self.image_attention.to_v.weight)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, Tensor | None] | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend to (tokens, detail tokens); None for the latter leaves the image attention out."""
        assert encoder_hidden_states is not None
        tokens, detail_tokens = encoder_hidden_states
        query = self.to_q(hidden_states)
        attended = self.processor(_Unprojected(self, query), hidden_states, tokens, attention_mask, **kwargs)
        if detail_tokens is not None:
            attended = attended + self.detail_scale * self.image_attention(query, detail_tokens)
        for layer in self.to_out:
            attended = layer(attended)
        return attended


class _Unprojected:
    """An attention as its processor sees it: with its queries computed, and without its output projection."""

    to_out = (nn.Identity(), nn.Identity())

    def __init__(self, attention: Attention, query: Tensor):
        self._attention, self._query = attention, query

    def to_q(self, hidden_states: Tensor) -> Tensor:
        return self._query

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attention, name)


class EditUNet(FromSizes, UNet2DConditionModel, ModelMixin):
    """UNet2DConditionModel whose cross-attentions read edit tokens and, decoupled, detail tokens.

    The image attention starts as an exact no-op: zero values, keys of the text attention.

    Source: InstructPix2Pix (arXiv 2211.09800) for the input, IP-Adapter (arXiv 2308.06721) for the image attention.
    """

    config_class = UNetConfig

    def __init__(self, config: UNetConfig):
        sizes = asdict(config)
        extra = {name: sizes.pop(name) for name in ("reads_last_token", "adds_source", "detail_tokens", "detail_scale")}
        if config.reads_last_token:
            sizes["class_embed_type"] = "projection"
            sizes["projection_class_embeddings_input_dim"] = config.cross_attention_dim
        super().__init__(**sizes)
        self.register_to_config(**extra)
        for attention in self._cross_attentions():
            DecoupledAttention.extend(attention, config.detail_scale)
        self.reset_image_attention()
        if config.adds_source:
            nn.init.zeros_(self.conv_out.weight)
            nn.init.zeros_(self.conv_out.bias)
        make_invariant(self)

    def predict(
        self, noisy: Tensor, source: Tensor, timesteps: Tensor, tokens: Tensor, detail_tokens: Tensor | None
    ) -> Tensor:
        """Predict as `FireEdit.predict`: only the network itself runs in its weights' precision.

        Args:
            noisy, source: [B, C, h, w] in float32, as is the prediction.
            timesteps: [B] or a scalar, 0 = clean; may be fractional.
            tokens: [B, T, cross_attention_dim], timed tokens or, in stage 2, edit tokens.
            detail_tokens: [B, detail_tokens, cross_attention_dim]; None omits the image attention (stage 2).
        """
        output = self(
            torch.cat([noisy, source], dim=1).to(self.dtype),
            timesteps,
            encoder_hidden_states=(tokens, detail_tokens),
            class_labels=tokens[:, -1] if self.config.reads_last_token else None,
        ).sample.float()
        return source + output if self.config.adds_source else output

    def reset_image_attention(self) -> None:
        """Make the image attention the exact no-op that it starts as."""
        for attention in self._cross_attentions():
            attention.start_as_no_op()

    def fuse_qkv_projections(self) -> None:
        """Fuse as diffusers; the fused layers are as independent of the batch as those that they replace."""
        super().fuse_qkv_projections()
        make_invariant(self)

    def unfuse_qkv_projections(self) -> None:
        """Unfuse as diffusers, which would keep the fused layers among the weights."""
        super().unfuse_qkv_projections()
        for attention in (part for part in self.modules() if isinstance(part, Attention)):
            attention.fused_projections = False
            for name in ("to_qkv", "to_kv"):
                attention._modules.pop(name, None)

    def _cross_attentions(self) -> list[Any]:
        return [part for part in self.modules() if isinstance(part, Attention) and part.is_cross_attention]
