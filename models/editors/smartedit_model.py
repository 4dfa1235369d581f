"""SmartEdit's networks before the UNet: CLIP, LLaMA with LoRA, Q-Former, BIM; their sizes are read from their tensors.

Source: SmartEdit (arXiv 2312.06739), TencentARC/SmartEdit.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    SamMaskDecoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.modeling_sam import SamPositionalEmbedding, SamTwoWayTransformer

from fireedit.models import weights
from fireedit.models.qformer import QFormer, QFormerConfig
from fireedit.models.vision import CLIP_MEAN, CLIP_STD

IMG_TOKENS = 32
"""Number of tokens <img_i>, whose states the Q-Former reads."""
LLAVA_TOKENS = 3
"""Last rows of LLaVA's tables, of its own added tokens; SmartEdit drops them."""
HEAD_WIDTH = 64
"""Channels of a head of the Q-Former; BERT's."""
TEXT_WEIGHT = 0.5
"""Weight of BIM's text features beside the edit tokens."""
EMBEDDINGS = "model.embed_tokens.weight"
BIM_NAMES = (
    (r"^modulate_head\.", "query_head."),
    (r"^modulate_transformer\.", "transformer."),
    (r"^pe_layer\.positional_encoding_gaussian_matrix$", "positions.positional_embedding"),
    (r"^dimension_reduction_head_zeroconv\.", "image_head."),
    (r"^dimension_reduction_head_qformer_out\.", "text_head."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
)
"""Patterns of published names of BIM's tensors, and what they become."""
BIM_TENSORS = (
    "modulate_head.weight",
    "modulate_transformer.layers.0.mlp.lin1.weight",
    "dimension_reduction_head_zeroconv.weight",
)
QFORMER_TENSORS = (
    "sd_query_tokens",
    "sd_qformer.encoder.layer.0.intermediate_query.dense.weight",
    "sd_qformer.encoder.layer.0.crossattention.self.key.weight",
    "mm_projector.weight",
    "mm_projector.bias",
)
"""Tensors whose shapes say the sizes, and the projector's."""


@dataclass(frozen=True, kw_only=True)
class BIMConfig:
    """Sizes of BIM."""

    width: int = 1024
    """Channels of CLIP's patches."""
    text_width: int = 768
    """Channels of the edit tokens."""
    mlp_width: int = 2048
    layers: int = 2
    heads: int = 8
    output_width: int = 320
    """Channels of the UNet's first convolution."""


class BIM(nn.Module):
    """Bidirectional interaction module: edit tokens and patches attend to each other in SAM's two-way transformer."""

    def __init__(self, config: BIMConfig):
        super().__init__()
        sizes = SamMaskDecoderConfig(
            hidden_size=config.width,
            hidden_act="relu",
            mlp_dim=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            attention_downsample_rate=2,
            layer_norm_eps=1e-5,
            attn_implementation="sdpa",
        )
        self.query_head = nn.Linear(config.text_width, config.width)
        self.transformer = SamTwoWayTransformer(sizes)
        self.positions = SamPositionalEmbedding(SamVisionConfig(num_pos_feats=config.width // 2, scale=1.0))
        self.image_head = nn.Conv2d(config.width, config.output_width, kernel_size=1)
        self.text_head = nn.Linear(config.width, config.text_width)

    def forward(self, edit_tokens: Tensor, patches: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Compute text and image features.

        Args:
            edit_tokens: [B, Q, text_width].
            patches: [B, S S, width], CLIP's states of a square of patches, row by row.
            size: height and width of the UNet's latents, cells.
        Returns:
            [B, Q, text_width] and [B, output_width, h, w].
        """
        side = math.isqrt(patches.shape[1])
        grid = patches.transpose(1, 2).unflatten(2, (side, side))
        queries = self.query_head(edit_tokens)[:, None]
        text, image = self.transformer(queries, grid, self._encoded_positions(side).expand_as(grid), None)
        image = image[:, 0].transpose(1, 2).unflatten(2, (side, side))
        image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        return self.text_head(text[:, 0]), self.image_head(image)

    def _encoded_positions(self, side: int) -> Tensor:
        """Encode the centers of S x S patches, [1, width, S, S]."""
        table = self.positions.positional_embedding
        centers = (torch.arange(side, device=table.device, dtype=table.dtype) + 0.5) / side
        y, x = torch.meshgrid(centers, centers, indexing="ij")
        return self.positions(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]


@dataclass(frozen=True)
class SmartEditPrompt:
    """Prompt of one edit; the picture's tokens come between its two parts."""

    before: Sequence[int]
    after: Sequence[int]
    """Ids that end with the tokens <img_i>."""


class SmartEditModel(nn.Module):
    """CLIP reads the picture, LLaMA picture and instruction, the Q-Former LLaMA's states; BIM mixes text and picture.

    Args:
        layer: index of CLIP's hidden states that LLaMA and BIM read.
    """

    def __init__(
        self, clip: CLIPVisionModel, projector: nn.Linear, llm: LlamaModel, qformer: QFormer, bim: BIM, layer: int = -2
    ):
        super().__init__()
        self.clip, self.projector, self.llm, self.qformer, self.bim = clip, projector, llm, qformer, bim
        self.layer = layer

    def forward(self, view: Tensor, prompt: SmartEditPrompt, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Compute the UNet's conditions for one picture.

        Args:
            view: uint8 RGB [S, S, 3] of CLIP's size.
            size: height and width of the UNet's latents, cells.
        Returns:
            Text states [1, 77, 768], and features [1, 320, h, w] for the output of the UNet's first convolution.
        """
        patches = self.patches(view)
        edit_tokens = self.qformer(self.img_states(patches, prompt).to(patches.dtype))
        text, image = self.bim(edit_tokens, patches, size)
        return edit_tokens + TEXT_WEIGHT * text, image

    def patches(self, view: Tensor) -> Tensor:
        """Encode a view, uint8 RGB [S, S, 3], to CLIP's patches [1, N, 1024], without the class token."""
        dtype, device = self.projector.weight.dtype, self.projector.weight.device
        mean, std = (torch.tensor(values, dtype=dtype, device=device) for values in (CLIP_MEAN, CLIP_STD))
        pixels = (view.to(device, dtype) / 255 - mean) / std
        output = self.clip(pixels.permute(2, 0, 1)[None], output_hidden_states=True)
        return output.hidden_states[self.layer][:, 1:]

    def img_states(self, patches: Tensor, prompt: SmartEditPrompt) -> Tensor:
        """Compute LLaMA's normed last states at the tokens <img_i>, [1, 32, 4096], in one prefill."""
        embed = self.llm.get_input_embeddings()
        before, after = (embed(torch.tensor(ids, device=patches.device))[None] for ids in (prompt.before, prompt.after))
        values = torch.cat([before, self.projector(patches).to(before.dtype), after], dim=1)
        return self.llm(inputs_embeds=values, use_cache=False).last_hidden_state[:, -IMG_TOKENS:]


def build_clip(config: CLIPVisionConfig, state: Mapping[str, Tensor], source: str) -> CLIPVisionModel:
    """Build CLIP's vision tower from `openai/clip-vit-large-patch14`, its text tower left out."""
    with init_empty_weights():
        clip = CLIPVisionModel(config)
    tensors = {name.removeprefix("clip."): tensor for name, tensor in weights.clip_vision(state).items()}
    weights.load_strict(clip, tensors, source)
    return clip


def build_llm(
    config: Mapping[str, Any],
    llava: Mapping[str, Tensor],
    adapter: Mapping[str, Any],
    state: Mapping[str, Tensor],
    source: str,
) -> LlamaModel:
    """Build LLaMA with SmartEdit's LoRA and its 35 new tokens after LLaVA's vocabulary.

    Args:
        config: LLaVA's config.json.
        llava: tensors of LLaVA 1.1, whose rows of old tokens are kept.
        adapter: adapter_config.json of the LoRA.
        state: `LLM-*/adapter_model.bin`: LoRA, the table of embeddings and LLaMA's other tensors, which replace LLaVA's
            where they are there.
        source: name of the files, for errors.
    Raises:
        WeightsError: tensors are missing or of another shape.
    """
    own = weights.smartedit_llm(state)
    added = len(weights.SMARTEDIT_TOKENS)
    found = [len(tensors[EMBEDDINGS]) if EMBEDDINGS in tensors else 0 for tensors in (llava, own)]
    vocab_size = found[0] - LLAVA_TOKENS
    if not 0 < vocab_size == found[1] - added:
        raise weights.WeightsError(
            f"{source}: found embeddings of {found[0]} and {found[1]} tokens; LLaVA 1.1's are {LLAVA_TOKENS} more than "
            f"the vocabulary, SmartEdit's {added} more"
        )
    rows, targets = own.pop(EMBEDDINGS)[-added:], list(adapter["target_modules"])
    tensors = weights.language_model({**llava, **own}, vocab_size, targets)
    tensors[f"llm.{EMBEDDINGS}"] = torch.cat([tensors[f"llm.{EMBEDDINGS}"], rows])
    with init_empty_weights():
        llm = LlamaModel(_llama_config(config, vocab_size + added))
        lora = LoraConfig(r=adapter["r"], lora_alpha=adapter["lora_alpha"], target_modules=targets)
        inject_adapter_in_model(lora, llm)
    prefix = "llm.model."
    kept = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    weights.load_strict(llm, kept, source)
    return llm


def _llama_config(config: Mapping[str, Any], vocab_size: int) -> LlamaConfig:
    """Select LLaMA's sizes from LLaVA's config.json, whose other entries are LLaVA's."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return LlamaConfig(
        vocab_size=vocab_size,
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        max_position_embeddings=config.get("max_position_embeddings", 2048),
        **{name: config[name] for name in names},
    )


def qformer_config(state: Mapping[str, Tensor]) -> QFormerConfig:
    """Read the Q-Former's sizes from its published tensors."""
    _, queries, width = state["sd_query_tokens"].shape
    return QFormerConfig(
        queries=queries,
        width=width,
        layers=_count_layers(state, "sd_qformer.encoder.layer"),
        heads=max(1, width // HEAD_WIDTH),
        mlp_width=len(state[QFORMER_TENSORS[1]]),
        input_width=state[QFORMER_TENSORS[2]].shape[1],
    )


def build_qformer(state: Mapping[str, Tensor], source: str) -> tuple[QFormer, nn.Linear]:
    """Build the Q-Former and LLaVA's projector from `embeddings_qformer/checkpoint-*_embeddings_qformer.bin`."""
    _require(state, QFORMER_TENSORS, source)
    with init_empty_weights():
        qformer = QFormer(qformer_config(state))
        output_width, input_width = state["mm_projector.weight"].shape
        projector = nn.Linear(input_width, output_width)
    weights.load_strict(qformer, weights.smartedit_qformer(state), source)
    weights.load_strict(projector, {name: state[f"mm_projector.{name}"] for name in ("weight", "bias")}, source)
    return qformer, projector


def bim_config(state: Mapping[str, Tensor]) -> BIMConfig:
    """Read BIM's sizes from its published tensors; the number of heads is SmartEdit's."""
    head, mlp, output = (state[name] for name in BIM_TENSORS)
    width, text_width = head.shape
    layers = _count_layers(state, "modulate_transformer.layers")
    return BIMConfig(width=width, text_width=text_width, mlp_width=len(mlp), layers=layers, output_width=len(output))


def build_bim(state: Mapping[str, Tensor], source: str) -> BIM:
    """Build BIM from `modulate-*/adapter_model.bin`."""
    _require(state, BIM_TENSORS, source)
    with init_empty_weights():
        bim = BIM(bim_config(state))
    tensors = {}
    for name, tensor in state.items():
        for pattern, replacement in BIM_NAMES:
            name = re.sub(pattern, replacement, name)
        tensors[name] = tensor
    weights.load_strict(bim, tensors, source)
    return bim


def _require(state: Mapping[str, Tensor], names: Sequence[str], source: str) -> None:
    """Raise WeightsError for the first of the names that a checkpoint lacks."""
    for name in names:
        if name not in state:
            found = ", ".join(sorted(state)[:3]) or "nothing"
            raise weights.WeightsError(f"{source}: found no {name} among {found}, ...; give it SmartEdit-7B's file")


def _count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
    return 1 + max((int(match[1]) for name in state if (match := pattern.match(name))), default=-1)
