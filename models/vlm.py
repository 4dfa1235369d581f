"""VLM: an LLM with LoRA reads image, regions and instruction and answers with the [IMG] states e."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM

from fireedit.models.layers.component import Component
from fireedit.models.tokens import IGNORED, IMAGE_START, PADDING, REGIONS_START, PromptConfig


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


class VLM(Component, ModelMixin):
    """LLaMA with LoRA, an adapter for image tokens and separate rows for the new tokens. One prefill, no decoding.

    The [IMG] tokens come in a fixed order, so they are appended to the prompt and their states are read in one pass.
    The published tables stay frozen: training only the rows of the new tokens computes the same as training the whole
    tables and restoring the old rows.

    Source: FireEdit (arXiv 2503.19839), SmartEdit (arXiv 2312.06739); the adapter's two layers are Groma's.
    """

    config_class = VLMConfig

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
            input_ids: [B, T], right-padded with PADDING.
            labels: [B, T] or None: target ids, IGNORED where there is no loss.
            image_tokens: [B, N, image_width], inserted after `<im_start>`.
            region_tokens: B tensors [R_b, width], inserted after `<roi>`.
        """
        embeddings, attended, positions = self._insert(input_ids, image_tokens, region_tokens)
        ids = _align(input_ids, positions, embeddings.shape[1], PADDING)
        labels = torch.full_like(input_ids, IGNORED) if labels is None else labels
        hidden = self.llm.model(
            inputs_embeds=embeddings, attention_mask=attended.long(), use_cache=False
        ).last_hidden_state
        losses = self._losses(hidden, _align(labels, positions, embeddings.shape[1], IGNORED))
        return VLMOutput(img_states=self._img_states(hidden, ids >= self.first_img), losses=losses)

    def _embed(self, ids: Tensor) -> Tensor:
        vocab_size = self.config.vocab_size
        old = self.llm.get_input_embeddings()(ids.clamp(min=0, max=vocab_size - 1))
        new = self.new_embeddings((ids - vocab_size).clamp(min=0))
        return torch.where((ids >= vocab_size)[..., None], new, old)

    def _insert(
        self, ids: Tensor, image_tokens: Tensor | None, region_tokens: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embed prompts [B, T] and insert visual tokens after their marks, for the whole batch at once.

        Returns:
            embeddings [B, L, width] padded to the longest, attention mask [B, L], and positions [B, T]: the new
            position of each input id, L if it is padding.
        """
        is_text = ids != PADDING
        columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        lengths, values = is_text.sum(dim=1), [self._embed(ids)]
        insertions = list[tuple[Tensor, Tensor, Tensor]]()  # mark [B, 1], number of tokens [B, 1], offsets [B, N]
        for start, tokens, counts in self._visual_tokens(ids, image_tokens, region_tokens):
            is_mark = ids == start
            counts = torch.where(is_mark.any(dim=1), counts, 0)[:, None]
            mark = is_mark.int().argmax(dim=1, keepdim=True)
            offsets = torch.arange(tokens.shape[1], device=ids.device).expand(len(ids), -1)
            insertions.append((mark, counts, offsets))
            values.append(tokens)
            lengths = lengths + counts[:, 0]
        longest = int(lengths.max())
        # Padding is scattered to one column beyond the longest prompt, which is cut off.
        shifts = sum((columns > mark) * counts for mark, counts, _ in insertions)
        positions = [torch.where(is_text, columns + shifts, longest)]
        for mark, counts, offsets in insertions:
            first = mark + 1 + sum((mark > other) * count for other, count, _ in insertions)
            positions.append(torch.where(offsets < counts, first + offsets, longest))
        value = torch.cat(values, dim=1)
        index = torch.cat(positions, dim=1)[..., None].expand_as(value)
        embeddings = value.new_zeros(len(ids), longest + 1, value.shape[-1]).scatter(1, index, value)[:, :-1]
        attended = torch.arange(longest, device=ids.device) < lengths[:, None]
        return embeddings, attended, positions[0]

    def _visual_tokens(
        self, ids: Tensor, image_tokens: Tensor | None, region_tokens: Sequence[Tensor] | None
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield id of the mark, tokens [B, N, width], zero-padded, and number of tokens [B], of image and regions."""
        if image_tokens is not None:
            images = self.adapter(image_tokens.to(self.dtype))
            yield self.image_start, images, torch.full(images.shape[:1], images.shape[1], device=ids.device)
        if region_tokens is not None and any(len(tokens) for tokens in region_tokens):
            regions = pad_sequence([tokens.to(self.dtype) for tokens in region_tokens], batch_first=True)
            yield self.regions_start, regions, torch.tensor([*map(len, region_tokens)], device=ids.device)

    def _img_states(self, hidden: Tensor, is_img: Tensor) -> Tensor:
        """Gather the states at the adjacent [IMG] tokens, [B, img_tokens, width]; zeros for a prompt without them."""
        first = is_img.int().argmax(dim=1, keepdim=True)
        positions = first + torch.arange(self.prompt_config.img_tokens, device=hidden.device)
        index = positions.clamp(max=hidden.shape[1] - 1)[..., None].expand(-1, -1, hidden.shape[-1])
        return torch.where(is_img.any(dim=1)[:, None, None], hidden.gather(1, index), 0)

    def _losses(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean cross entropy of each prompt's labelled tokens, float32 [B]."""
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        labelled = (targets != IGNORED).flatten().nonzero()[:, 0]
        labelled_hidden, labelled_targets = hidden.flatten(0, 1)[labelled], targets.flatten()[labelled]
        logits = torch.cat([self.llm.lm_head(labelled_hidden), self.new_head(labelled_hidden)], dim=-1)
        token_nll = F.cross_entropy(logits.float(), labelled_targets, reduction="none")
        of_every_token = token_nll.new_zeros(targets.numel()).index_put((labelled,), token_nll).view_as(targets)
        return of_every_token.sum(dim=1) / (targets != IGNORED).sum(dim=1).clamp(min=1)


def lora_config(config: VLMConfig) -> LoraConfig:
    """Build PEFT's settings of the LLM's LoRA."""
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.lora_targets),
        task_type="CAUSAL_LM",
    )


def _align(values: Tensor, positions: Tensor, length: int, fill: int) -> Tensor:
    """Move values [B, T] of the input ids to their new positions, [B, length]."""
    return values.new_full((len(values), length + 1), fill).scatter(1, positions, values)[:, :-1]
