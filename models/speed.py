"""Speed of the parts: which attention they run, in words, and their compilation."""

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from fireedit.models.model import FireEdit
from fireedit.models.vlm import CAUSAL_SDPA

Compiled = Literal["unet"]
"""Parts that `compile_parts` takes: those whose shapes are the same in every step. The vision tower is none of them: it
returns other hidden states of its middle layers if it is compiled, and detector and region encoder read these."""
WORDS = {"sdpa": "SDPA", CAUSAL_SDPA: "SDPA", "flash_attention_2": "flash attention 2", "AttnProcessor": "eager"}
"""Words for the names that transformers and diffusers give; others are told as they are."""


def attention_in_words(model: FireEdit) -> str:
    """Say which attention the parts run, such as `SDPA with flash kernels in vision, vlm, unet; eager in qformer`."""
    parts: dict[str, list[str]] = {}
    for name, part in model.named_children():
        for word in sorted({_words(module, found) for module in part.modules() for found in _implementations(module)}):
            parts.setdefault(word, []).append(name)
    return "; ".join(f"{word} in {', '.join(names)}" for word, names in parts.items())


def compile_parts(model: FireEdit, parts: Sequence[Compiled], backend: str = "inductor") -> None:
    """Compile parts in place, each at its first call, which takes minutes; the names of their weights stay."""
    for part in (getattr(model, name) for name in parts):
        for module in part.modules():
            if isinstance(module, PreTrainedModel):  # in its first call it does so under a lock, which breaks the graph
                maybe_install_capturing_hooks(module)
        part.compile(backend=backend)


def _implementations(module: nn.Module) -> set[str]:
    """Return the names of a model's attention implementations; none for its layers and for other modules."""
    if isinstance(module, PreTrainedModel):
        return {module.config._attn_implementation}
    if isinstance(module, UNet2DConditionModel):
        names = {type(processor).__name__ for processor in module.attn_processors.values()}
        return {"sdpa" if name.endswith("2_0") else name for name in names}
    return set()


def _words(module: nn.Module, implementation: str) -> str:
    """Choose the words for an implementation; torch's SDPA has flash kernels for half precision on GPUs."""
    weight = next(module.parameters())
    half, on_gpu = weight.dtype in (torch.float16, torch.bfloat16), weight.device.type == "cuda"
    words = WORDS.get(implementation, implementation)
    flash = words == "SDPA" and half and on_gpu and torch.backends.cuda.flash_sdp_enabled()
    return f"{words} with flash kernels" if flash else words
