"""UNet: Stable Diffusion's, with the source's latents as extra input channels and a second, image cross-attention."""

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, IPAdapterAttnProcessor2_0
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
        self.set_attn_processor({name: self._processor(name) for name in self.attn_processors})
        if config.adds_source:
            nn.init.zeros_(self.conv_out.weight)
            nn.init.zeros_(self.conv_out.bias)
        make_invariant(self)

    def predict(
        self, noisy: Tensor, source: Tensor, timesteps: Tensor, tokens: Tensor, detail_tokens: Tensor | None
    ) -> Tensor:
        """Predict as `FireEdit.predict`.

        Args:
            timesteps: [B] or a scalar, 0 = clean; may be fractional.
            tokens: [B, T, cross_attention_dim], timed tokens or, in stage 2, edit tokens.
            detail_tokens: [B, detail_tokens, cross_attention_dim]; None omits the image attention (stage 2).
        """
        detail = [] if detail_tokens is None else [detail_tokens]
        output = self(
            torch.cat([noisy, source], dim=1),
            timesteps,
            encoder_hidden_states=(tokens, detail),
            class_labels=tokens[:, -1] if self.config.reads_last_token else None,
        ).sample
        return source + output if self.config.adds_source else output

    def _processor(self, name: str) -> nn.Module:
        if name.endswith("attn1.processor"):
            return AttnProcessor2_0()
        attention, config = self.get_submodule(name.removesuffix(".processor")), self.config
        processor = IPAdapterAttnProcessor2_0(
            attention.inner_dim, config.cross_attention_dim, (config.detail_tokens,), config.detail_scale
        )
        start_as_no_op(processor, attention)
        return processor


def start_as_no_op(processor: IPAdapterAttnProcessor2_0, attention: Attention) -> None:
    """Initialize the image attention with the text attention's keys and zero values."""
    with torch.no_grad():
        processor.to_k_ip[0].weight.copy_(attention.to_k.weight)
        nn.init.zeros_(processor.to_v_ip[0].weight)
