"""UNet: Stable Diffusion's, with the source's latents as extra input channels and a second, image cross-attention."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from fireedit.models.deep_features import DeepFeatures, run_split
from fireedit.models.layers.component import FromSizes
from fireedit.models.layers.invariant import make_invariant

KeysValues = Sequence[tuple[Tensor, Tensor]]
"""Keys and values, [B, T, W_i] each, of some tokens in each cross-attention i."""


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

    def project(self, detail_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute keys and values [B, 16, W] of detail tokens [B, 16, 768]."""
        return self.to_k(detail_tokens), self.to_v(detail_tokens)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend [B, N, W] to keys and values [B, 16, W]; the output projection is the text attention's."""
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class DecoupledAttention(Attention):
    """Cross-attention to text and image: text attention + lambda * image attention, through one output projection.

    The text attention runs in whatever processor diffusers sets; processors hold no weights.
    """

    image_attention: ImageAttention
    detail_scale: float
    place: int
    """Number among the UNet's cross-attentions: index of its `KeysValues`."""

    @classmethod
    def extend(cls, text: Attention, detail_scale: float, place: int) -> None:
        """Turn a text attention into a decoupled one; its weights and their names stay."""
        text.__class__ = cls
        text.image_attention, text.detail_scale, text.place = ImageAttention(text), detail_scale, place

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute keys and values [B, T, W] of tokens [B, T, 768]."""
        if self.fused_projections:
            key, value = self.to_kv(tokens).chunk(2, dim=-1)
            return key, value
        return self.to_k(tokens), self.to_v(tokens)

    def start_as_no_op(self) -> None:
        """Initialize the image attention with the text attention's keys and zero values."""
        with torch.no_grad():
            self.image_attention.to_k.weight.copy_(self.to_k.weight)
            nn.init.zeros_(self.image_attention.to_v.weight)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor | KeysValues, Tensor | KeysValues | None] | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend to (tokens, detail tokens), or to their keys and values; no detail leaves the image attention out."""
        assert encoder_hidden_states is not None
        tokens, detail = encoder_hidden_states
        query = self.to_q(hidden_states)
        key, value = self.project(tokens) if isinstance(tokens, Tensor) else tokens[self.place]
        attended = self.processor(_Projected(self, query, key, value), hidden_states, key, attention_mask, **kwargs)
        if detail is not None:
            image = self.image_attention
            of_image = image.project(detail) if isinstance(detail, Tensor) else detail[self.place]
            attended = attended + self.detail_scale * image(query, *of_image)
        for layer in self.to_out:
            attended = layer(attended)
        return attended


class _Projected:
    """An attention as its processor sees it: queries, keys and values are computed, and nothing is projected after."""

    to_out = (nn.Identity(), nn.Identity())

    def __init__(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor):
        self._attention, self._query, self._key, self._value = attention, query, key, value

    def to_q(self, hidden_states: Tensor) -> Tensor:
        return self._query

    def to_k(self, tokens: Tensor) -> Tensor:
        return self._key

    def to_v(self, tokens: Tensor) -> Tensor:
        return self._value

    def to_kv(self, tokens: Tensor) -> Tensor:
        """Return both as the fused projection of diffusers does."""
        return torch.cat([self._key, self._value], dim=-1)

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
        for place, attention in enumerate(self._cross_attentions()):
            DecoupledAttention.extend(attention, config.detail_scale, place)
        self.reset_image_attention()
        if config.adds_source:
            nn.init.zeros_(self.conv_out.weight)
            nn.init.zeros_(self.conv_out.bias)
        make_invariant(self)

    def predict(
        self,
        noisy: Tensor,
        source: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        detail_tokens: Tensor | None,
        projected: tuple[KeysValues, KeysValues | None] | None = None,
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """Predict as `FireEdit.predict`: only the network itself runs in its weights' precision.

        Args:
            noisy, source: [B, C, h, w] in float32, as is the prediction.
            timesteps: [B] or a scalar, 0 = clean; may be fractional.
            tokens: [B, T, cross_attention_dim], timed tokens or, in stage 2, edit tokens.
            detail_tokens: [B, detail_tokens, cross_attention_dim]; None omits the image attention (stage 2).
            projected: keys and values of both, which are else computed from them.
            deep: features to reuse, or an empty place that gets those of this step; None keeps none.
        """
        # As `self.dtype`, which looks for hooks for 0.7 ms at nano's size; diffusers' layerwise casting leaves norms.
        latents = torch.cat([noisy, source], dim=1).to(self.conv_norm_out.weight.dtype)
        conditions: Any = {
            "encoder_hidden_states": projected or (tokens, detail_tokens),
            "class_labels": tokens[:, -1] if self.config.reads_last_token else None,
        }
        if deep is None:
            output = self(latents, timesteps, **conditions).sample
        else:
            output, deep.features = self(latents, timesteps, **conditions, deep=deep.features, keep_deep=True)
        output = output.float()
        return source + output if self.config.adds_source else output

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Any,
        class_labels: Tensor | None = None,
        deep: Tensor | None = None,
        keep_deep: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Run as diffusers does, or with `keep_deep` as `run_split`, and return what that returns."""
        if keep_deep:
            return run_split(self, sample, timestep, encoder_hidden_states, class_labels, deep)
        return super().forward(sample, timestep, encoder_hidden_states, class_labels, **kwargs)

    def project_tokens(self, tokens: Tensor) -> KeysValues:
        """Compute the keys and values of tokens [B, T, cross_attention_dim], which no other sample changes."""
        return [attention.project(tokens) for attention in self._cross_attentions()]

    def project_detail(self, detail_tokens: Tensor) -> KeysValues:
        """Compute the keys and values of detail tokens [B, detail_tokens, cross_attention_dim]."""
        return [attention.image_attention.project(detail_tokens) for attention in self._cross_attentions()]

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
