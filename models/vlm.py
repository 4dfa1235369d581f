"""The VLM: an LLM with LoRA reads picture, regions and instruction and answers with the [IMG] states e."""

from collections.abc import Sequence
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
    """Rows of the LLM's own tables; the new tokens have tables of their own."""
    width: int = 4096
    layers: int = 32
    heads: int = 32
    mlp_width: int = 11008
    max_positions: int = 4096
    norm_eps: float = 1e-5
    image_width: int = 4096
    """Channels of the image tokens before the adapter: four DINOv2 patches."""
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    prompt: PromptConfig = PromptConfig()


@dataclass(frozen=True)
class Understanding:
    """The VLM's answer to a batch of prompts."""

    img_states: Tensor
    """e [B, 32, width]: the normed last hidden state at the [IMG] tokens; zeros for a prompt without them."""
    loss: Tensor
    """Cross entropy of the labelled tokens, mean over them; 0 where nothing is labelled."""
    losses: Tensor
    """float32 [B], detached: the same for every prompt alone, mean over its own labelled tokens."""


class VLM(Component, ModelMixin):
    """LLaMA with LoRA, an adapter for image tokens and own rows for the new tokens. One prefill, no decoding.

    The [IMG] tokens always come in one order, so they are appended to the prompt and their states read in one pass.
    The published tables stay frozen: only the rows of the new tokens are trained, which computes the same as training
    the whole tables and restoring the old rows.

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
        inject_adapter_in_model(
            LoraConfig(
                r=config.lora_rank,
                lora_alpha=config.lora_alpha,
                lora_dropout=config.lora_dropout,
                target_modules=list(config.lora_targets),
            ),
            self.llm,
        )
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
    ) -> Understanding:
        """Read prompts and answer.

        Args:
            input_ids: [B, T], right-padded with PADDING.
            labels: [B, T] or None: what the language model should say, else IGNORED.
            image_tokens: [B, N, image_width], put in behind `<im_start>`.
            region_tokens: B tensors [R_b, width], put in behind `<roi>`.
        """
        images = None if image_tokens is None else self.adapter(image_tokens.to(self.dtype))
        prompts = []
        for index, row in enumerate(input_ids):
            ids = row[row != PADDING]
            wanted = torch.full_like(ids, IGNORED) if labels is None else labels[index, : len(ids)]
            image = None if images is None else images[index]
            regions = None if region_tokens is None else region_tokens[index].to(self.dtype)
            prompts.append(self._put_in(ids, wanted, image, regions))
        embeddings, img_mask, targets = ([prompt[part] for prompt in prompts] for part in range(3))
        attended = pad_sequence([torch.ones_like(mask) for mask in img_mask], batch_first=True)
        hidden = self.llm.model(
            inputs_embeds=pad_sequence(embeddings, batch_first=True), attention_mask=attended.long(), use_cache=False
        ).last_hidden_state
        img_states = self._img_states(hidden, pad_sequence(img_mask, batch_first=True))
        loss, losses = self._losses(hidden, pad_sequence(targets, batch_first=True, padding_value=IGNORED))
        return Understanding(img_states=img_states, loss=loss, losses=losses)

    def _embed(self, ids: Tensor) -> Tensor:
        vocab_size = self.config.vocab_size
        old = self.llm.get_input_embeddings()(ids.clamp(max=vocab_size - 1))
        new = self.new_embeddings((ids - vocab_size).clamp(min=0))
        return torch.where((ids >= vocab_size)[:, None], new, old)

    def _put_in(
        self, ids: Tensor, labels: Tensor, image: Tensor | None, regions: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One prompt's embeddings [L, width], which of them are [IMG] tokens [L], and labels [L]."""
        embeddings, is_img = self._embed(ids), ids >= self.first_img
        for start, tokens in ((self.image_start, image), (self.regions_start, regions)):
            places = (ids == start).nonzero()
            if tokens is None or len(tokens) == 0 or len(places) == 0:
                continue
            cut = int(places[0]) + 1
            embeddings = torch.cat([embeddings[:cut], tokens, embeddings[cut:]])
            is_img = torch.cat([is_img[:cut], is_img.new_zeros(len(tokens)), is_img[cut:]])
            ids = torch.cat([ids[:cut], ids.new_full((len(tokens),), PADDING), ids[cut:]])
            labels = torch.cat([labels[:cut], labels.new_full((len(tokens),), IGNORED), labels[cut:]])
        return embeddings, is_img, labels

    def _img_states(self, hidden: Tensor, img_mask: Tensor) -> Tensor:
        answered = img_mask.any(dim=1)
        states = hidden.new_zeros(len(hidden), self.prompt_config.img_tokens, hidden.shape[-1])
        states[answered] = hidden[img_mask].unflatten(0, (-1, self.prompt_config.img_tokens))
        return states

    def _losses(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy over all labelled tokens, and over those of each prompt alone [B], detached."""
        learnt = labels[:, 1:] != IGNORED
        surprises = hidden.new_zeros(learnt.shape, dtype=torch.float32)
        if not learnt.any():
            return surprises.new_zeros(()), surprises.sum(dim=1)
        speaking, wanted = hidden[:, :-1][learnt], labels[:, 1:][learnt]
        logits = torch.cat([self.llm.lm_head(speaking), self.new_head(speaking)], dim=-1)
        log_probabilities = F.log_softmax(logits.float(), dim=-1)
        surprises[learnt] = F.nll_loss(log_probabilities.detach(), wanted, reduction="none")
        return F.nll_loss(log_probabilities, wanted), surprises.sum(dim=1) / learnt.sum(dim=1).clamp(min=1)
