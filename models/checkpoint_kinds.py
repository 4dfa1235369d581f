"""Kinds of published checkpoints, told apart by the names of their tensors."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fireedit.models.weights import LLAMA_NAMES, LLAMA_PREFIX, WeightsError


@dataclass(frozen=True)
class Kind:
    """Checkpoint of one kind."""

    title: str
    """Words for it in errors."""
    give: str
    """Published checkpoints of the kind."""
    marks: tuple[str, ...]
    """Patterns of names; a checkpoint of the kind has one of each."""
    names: str
    """Pattern of all names that such a checkpoint may have, those that nothing reads included."""


GROMA = Kind(
    "Groma's MLLM",
    "FoundationVision/groma-7b-pretrain or FoundationVision/groma-7b-finetune (groma-det-pretrain goes to --detector)",
    (r"region_encoder\.", r"img_txt_bridge\.", r"perceiver\.ddetr_transformer\."),
    r"(perceiver|region_encoder|img_txt_bridge|llm|new_input_embs|extra_lm_head)\.",
)
DETECTOR = Kind(
    "Groma's detector",
    "FoundationVision/groma-det-pretrain, or leave it out for the detector in --groma",
    (r"(perceiver\.)?ddetr_transformer\.",),
    r"(perceiver\.)?(vis_encoder|input_proj|ddetr_transformer)\.",
)
DINOV2 = Kind(
    "DINOv2",
    "facebook/dinov2-large",
    (r"((perceiver\.)?vis_encoder\.)?encoder\.layer\.0\.layer_scale1\.",),
    r"((perceiver\.)?vis_encoder\.)?(embeddings|encoder|layernorm)\.",
)
CLIP = Kind(
    "CLIP",
    "openai/clip-vit-large-patch14",
    (r"vision_model\.", r"text_model\."),
    r"((vision_model|text_model|visual_projection|text_projection)\.|logit_scale$)",
)
SMARTEDIT_QFORMER = Kind(
    "SmartEdit's Q-Former",
    "TencentARC/SmartEdit-7B, the folder or its embeddings_qformer/checkpoint-15000_embeddings_qformer.bin",
    (r"sd_query_tokens$", r"sd_qformer\."),
    r"(sd_query_tokens$|(sd_qformer|mm_projector|lm_head)\.)",
)
SMARTEDIT_LLM = Kind(
    "SmartEdit's LoRA",
    "TencentARC/SmartEdit-7B's LLM-15000",
    (r"(model\.)?base_model\.model\..*\.lora_A\.", r"(model\.)?base_model\.model\.(model\.)?embed_tokens\."),
    r"(model\.)?base_model\.model\.",
)
LLAMA = Kind(
    "LLaMA",
    "lmsys/vicuna-7b-v1.5, liuhaotian/llava-v1.5-7b or llava-hf/llava-1.5-7b-hf",
    (
        LLAMA_PREFIX + r"model\.(language_model\.)?layers\.0\.",
        LLAMA_PREFIX + r"model\.(language_model\.)?embed_tokens\.",
    ),
    rf"({LLAMA_PREFIX}{LLAMA_NAMES}|(model\.)?(mm_projector|multi_modal_projector|vision_tower|image_newline)\b)",
)
UNET = Kind(
    "Stable Diffusion's UNet",
    "timbrooks/instruct-pix2pix, or Stable Diffusion 1.5 in the same layout",
    (r"(unet\.)?conv_in\.weight$", r"(unet\.)?time_embedding\.", r"(unet\.)?down_blocks\."),
    r"(unet\.)?(conv_in|conv_out|conv_norm_out|time_embedding|class_embedding|down_blocks|mid_block|up_blocks)\.",
)
VAE = Kind(
    "Stable Diffusion's VAE",
    UNET.give,
    (r"encoder\.conv_in\.", r"decoder\.conv_in\."),
    r"(encoder|decoder|quant_conv|post_quant_conv)\.",
)
IP_ADAPTER = Kind(
    "IP-Adapter",
    "h94/IP-Adapter's models/ip-adapter-plus_sd15.safetensors or .bin",
    (r"ip_adapter\.1\.to_k_ip\.weight$", r"image_proj\."),
    r"(ip_adapter|image_proj)\.",
)
KINDS = (GROMA, DETECTOR, DINOV2, CLIP, SMARTEDIT_QFORMER, SMARTEDIT_LLM, LLAMA, UNET, VAE, IP_ADAPTER)
"""Known kinds; of one that contains another, the larger comes first."""


def kinds_of(names: Iterable[str]) -> list[Kind]:
    """Find the kinds whose marks are all among the names of a checkpoint's tensors."""
    names = list(names)
    return [kind for kind in KINDS if all(_some(mark, names) for mark in kind.marks)]


def check_kind(names: Sequence[str], wanted: Kind, where: str) -> list[str]:
    """Return the names that no kind found among them accounts for.

    Args:
        where: part, option and path of the checkpoint, for the error.
    Raises:
        WeightsError: they are not of the wanted kind.
    """
    kinds = kinds_of(names)
    if wanted not in kinds:
        some = f"{len(names)} tensors such as {min(names)}" if names else "no tensors"
        found = f"{kinds[0].title} ({some})" if kinds else some
        raise WeightsError(f"{where}: found {found}, not {wanted.title}; give it {wanted.give}")
    return [name for name in names if not any(re.match(kind.names, name) for kind in kinds)]


def _some(mark: str, names: Iterable[str]) -> bool:
    return any(re.match(mark, name) for name in names)
