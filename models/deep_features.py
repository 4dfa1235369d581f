"""Deep features of the UNet, kept from one denoising step for the next ones (DeepCache, arXiv 2312.00858).

The layers below the finest resolution change little from step to step. A step that reuses their output runs the first
and the last block alone; its picture is approximate.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fireedit.models.unet import EditUNet


@dataclass
class DeepFeatures:
    """Place for the features of one step."""

    features: Tensor | None = None
    """[B, C, h, w], input of the last block; None before the first step."""


def run_split(
    unet: "EditUNet",
    sample: Tensor,
    timestep: Tensor,
    context: Any,
    class_labels: Tensor | None,
    deep: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run the UNet as diffusers does, or between its first and last block not at all.

    Args:
        sample, timestep, context, class_labels: as `EditUNet.forward` gets them.
        deep: [B, C, h, w], features of an earlier step; None computes them.
    Returns:
        The prediction [B, C, h, w], and the features that it was made of.
    """
    embedded = _embed(unet, sample, timestep, class_labels)
    outer, *inner = unet.down_blocks
    *inner_up, last = unet.up_blocks
    sample = unet.conv_in(sample)
    skips: list[Tensor] = [sample]
    sample, outputs = _run(outer, sample, embedded, context)
    skips += outputs
    own = len(last.resnets)
    if deep is None:
        uneven = any(side % 2**unet.num_upsamplers for side in skips[0].shape[-2:])
        for block in inner:
            sample, outputs = _run(block, sample, embedded, context)
            skips += outputs
        sample = _run(unet.mid_block, sample, embedded, context)
        for block in inner_up:
            count = len(block.resnets)
            skips, taken = skips[:-count], tuple(skips[-count:])
            size = {"upsample_size": skips[-1].shape[2:]} if uneven else {}
            sample = _run(block, sample, embedded, context, res_hidden_states_tuple=taken, **size)
        deep = sample
    sample = _run(last, deep, embedded, context, res_hidden_states_tuple=tuple(skips[:own]))
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(sample))), deep


def _embed(unet: "EditUNet", sample: Tensor, timestep: Tensor, class_labels: Tensor | None) -> Tensor:
    """Embed timesteps, and the labels that some UNets read too."""
    embedded = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep))
    of_class = unet.get_class_embed(sample=sample, class_labels=class_labels)
    return embedded if of_class is None else embedded + of_class


def _run(block: torch.nn.Module, sample: Tensor, embedded: Tensor, context: Any, **more: Any) -> Any:
    """Call a block of diffusers; those without cross-attention take no context."""
    if getattr(block, "has_cross_attention", False):
        more["encoder_hidden_states"] = context
    return block(hidden_states=sample, temb=embedded, **more)
