"""VLM: an LLM with LoRA reads image, regions and instruction and answers with the [IMG] states e."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fireedit.models.layers.component import Component
from fireedit.models.layers.device import to_device
from fireedit.models.prompt_layout import PromptLayout
from fireedit.models.tokens import IGNORED, IMAGE_START, REGIONS_START, PromptConfig

CAUSAL_SDPA = "causal_sdpa"
"""Name of torch's attention under which transformers makes no mask; to see that none is needed it waits for a GPU."""
AttentionInterface.register(CAUSAL_SDPA, sdpa_attention_forward)


@dataclass(frozen=True, kw_only=True)
class VLMConfig:
    vocab_size: int = 32000
    """Rows of the LLM's own tables; the new tokens have separate tables."""
    width: int = 4096
    layers: int = 32
    heads: int = 32
    mlp_width: int = 11008
    max_positions: int = 4096
    norm_eps: float = 1e-5
    image_width: int = 4096
    """Channels of the image tokens before the adapter: four DINOv2 patches."""
    lora_rank: int = 8
    """0 has no LoRA, as in a pipeline whose LoRA was merged."""
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    prompt: PromptConfig = PromptConfig()


@dataclass(frozen=True)
class VLMOutput:
    """Forward pass of the VLM over B prompts."""

    img_states: Tensor
    """e [B, 32, width]: normed last hidden states at the [IMG] tokens; zeros for a prompt without them."""
    losses: Tensor
    """float32 [B]: mean cross entropy of each prompt's own labelled tokens; 0 for a prompt without any."""


@dataclass(frozen=True)
class Prefix:
    """Beginning of a prompt that the LLM has read."""

    keys_values: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values of each layer, [1, heads, length, width / heads] each."""

    @property
    def length(self) -> int:
        return self.keys_values[0][0].shape[2]


class VLM(Component, ModelMixin):
    """LLaMA with LoRA, an adapter for image tokens and separate rows for the new tokens. One prefill, no decoding.

    The [IMG] tokens come in a fixed order, so they are appended to the prompt and their states are read in one pass.
    The published tables stay frozen: training only the rows of the new tokens computes the same as training the whole
    tables and restoring the old rows.

    Source: FireEdit (arXiv 2503.19839), SmartEdit (arXiv 2312.06739); the adapter's two layers are Groma's.
    """

    config_class = VLMConfig
    stored_weights: Literal["int8", "fp8"] | None = None
    """Precision in which the weights of the LLM's linear layers are stored; None: as they were built or loaded."""

    def __init__(self, config: VLMConfig):
        super().__init__(config)
        self.llm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.width,
                intermediate_size=config.mlp_width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.max_positions,
                rms_norm_eps=config.norm_eps,
                attn_implementation=CAUSAL_SDPA,
            )
        )
        if config.lora_rank:
            inject_adapter_in_model(lora_config(config), self.llm)
        self.adapter = nn.Sequential(
            nn.Linear(config.image_width, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.prompt_config = config.prompt
        tokens = config.prompt.new_tokens
        self.image_start = config.vocab_size + tokens.index(IMAGE_START)
        self.regions_start = config.vocab_size + tokens.index(REGIONS_START)
        self.first_img = config.vocab_size + tokens.index("<img_0>")
        self.new_embeddings = nn.Embedding(len(tokens), config.width)
        self.new_head = nn.Linear(config.width, len(tokens), bias=False)
        for table in (self.new_embeddings, self.new_head):
            nn.init.normal_(table.weight, std=0.02)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        image_tokens: Tensor | None = None,
        region_tokens: Sequence[Tensor] | None = None,
    ) -> VLMOutput:
        """Run the prompts through the LLM.

        Args:
            input_ids: [B, T] on the CPU, right-padded with PADDING; ids on a GPU are fetched, which waits for it.
            labels: [B, T] or None: target ids, IGNORED where there is no loss; on the CPU, too.
            image_tokens: [B, N, image_width], inserted after `<im_start>`.
            region_tokens: B tensors [R_b, width], inserted after `<roi>`.
        """
        ids = input_ids.cpu()
        labels = torch.full_like(ids, IGNORED) if labels is None else labels.cpu()
        values, layout = self._lay_out(ids, labels, image_tokens, region_tokens)
        # Causal attention never looks at the padding, which is on the right: it needs no mask.
        hidden = self.llm.model(inputs_embeds=_arrange(values, layout), use_cache=False).last_hidden_state
        return VLMOutput(img_states=self._img_states(hidden, layout), losses=self._losses(hidden, layout, ids.shape))

    def begin(self, input_ids: Tensor, image_tokens: Tensor, region_tokens: Sequence[Tensor]) -> Prefix:
        """Read the beginning of one prompt, which `resume` continues; arguments are those of `forward`."""
        ids = input_ids.cpu()
        values, layout = self._lay_out(ids, torch.full_like(ids, IGNORED), image_tokens, region_tokens)
        read = self.llm.model(inputs_embeds=_arrange(values, layout), use_cache=True).past_key_values
        return Prefix(tuple((layer.keys, layer.values) for layer in read.layers))

    def resume(self, prefix: Prefix, input_ids: Tensor) -> Tensor:
        """Read B continuations of one beginning; returns the [IMG] states e [B, 32, width].

        Args:
            input_ids: [B, T] text on the CPU, right-padded with PADDING.
        """
        ids, device = input_ids.cpu(), self.new_embeddings.weight.device
        values, layout = self._lay_out(ids, torch.full_like(ids, IGNORED), None, None)
        rows, columns = ids.shape
        kept = [tuple(each.expand(rows, -1, -1, -1) for each in layer) for layer in prefix.keys_values]
        seen = torch.ones(columns, prefix.length + columns, dtype=torch.bool, device=device).tril(prefix.length)
        hidden = self.llm.model(
            inputs_embeds=values,
            attention_mask=seen[None, None],
            position_ids=torch.arange(prefix.length, prefix.length + columns, device=device)[None],
            past_key_values=DynamicCache(kept),
        ).last_hidden_state
        return self._img_states(hidden, layout)

    def _lay_out(
        self, ids: Tensor, labels: Tensor, image_tokens: Tensor | None, region_tokens: Sequence[Tensor] | None
    ) -> tuple[Tensor, PromptLayout]:
        """Embed text and visual tokens, [B, T + N, width], and compute their places."""
        device = self.new_embeddings.weight.device
        visual, counts = self._visual_tokens(image_tokens, region_tokens)
        layout = PromptLayout.of(ids, labels, counts, self.first_img).to(device)
        return torch.cat([self._embed(to_device(ids, device)), *visual], dim=1), layout

    def _embed(self, ids: Tensor) -> Tensor:
        vocab_size = self.config.vocab_size
        old = self.llm.get_input_embeddings()(ids.clamp(min=0, max=vocab_size - 1))
        new = self.new_embeddings((ids - vocab_size).clamp(min=0))
        return torch.where((ids >= vocab_size)[..., None], new, old)

    def _visual_tokens(
        self, image_tokens: Tensor | None, region_tokens: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], dict[int, list[int]]]:
        """Return tokens of images and regions, zero-padded [B, N, width], and their numbers by the ids of the marks."""
        tokens, counts = list[Tensor](), dict[int, list[int]]()
        if image_tokens is not None:
            tokens.append(self.adapter(image_tokens.to(self.dtype)))
            counts[self.image_start] = [image_tokens.shape[1]] * len(image_tokens)
        if region_tokens is not None and any(len(own) for own in region_tokens):
            tokens.append(pad_sequence([own.to(self.dtype) for own in region_tokens], batch_first=True))
            counts[self.regions_start] = [len(own) for own in region_tokens]
        return tokens, counts

    def _img_states(self, hidden: Tensor, layout: PromptLayout) -> Tensor:
        """Gather the states at the adjacent [IMG] tokens, [B, img_tokens, width]; zeros for a prompt without them."""
        offsets = torch.arange(self.prompt_config.img_tokens, device=hidden.device)
        positions = (layout.first_img[:, None] + offsets).clamp(max=layout.length - 1)
        states = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
        return torch.where(layout.has_img[:, None, None], states, 0)

    def _losses(self, hidden: Tensor, layout: PromptLayout, shape: torch.Size) -> Tensor:
        """Compute the mean cross entropy of each prompt's labelled tokens, float32 [B]; `shape` is [B, T]."""
        predictors = hidden.flatten(0, 1)[layout.predictors]
        logits = torch.cat([self.llm.lm_head(predictors), self.new_head(predictors)], dim=-1)
        token_nll = F.cross_entropy(logits.float(), layout.targets, reduction="none")
        of_every_token = token_nll.new_zeros(shape.numel()).index_put((layout.labelled,), token_nll)
        return of_every_token.view(shape).sum(dim=1) / layout.counts.clamp(min=1)


def _arrange(values: Tensor, layout: PromptLayout) -> Tensor:
    """Move values [B, T + N, width] to their places, [B, L, width], zeros where there is none.

    Values without a place go to one column beyond the longest sequence, which is cut off.
    """
    index = layout.positions[..., None].expand_as(values)
    arranged = values.new_zeros(len(values), layout.length + 1, values.shape[-1])
    return arranged.scatter(1, index, values)[:, :-1]


def lora_config(config: VLMConfig) -> LoraConfig:
    """Build PEFT's settings of the LLM's LoRA."""
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.lora_targets),
        task_type="CAUSAL_LM",
    )
