"""The VLM: an LLM with LoRA reads picture, regions and instruction and answers with the [IMG] states e."""

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
        prompts = self._put_in(input_ids, image_tokens, region_tokens)
        targets = torch.full_like(prompts.ids, IGNORED) if labels is None else prompts.moved(labels, IGNORED)
        hidden = self.llm.model(
            inputs_embeds=prompts.embeddings, attention_mask=prompts.attended.long(), use_cache=False
        ).last_hidden_state
        loss, losses = self._losses(hidden, targets)
        img_states = self._img_states(hidden, prompts.ids >= self.first_img)
        return Understanding(img_states=img_states, loss=loss, losses=losses)

    def _embed(self, ids: Tensor) -> Tensor:
        vocab_size = self.config.vocab_size
        old = self.llm.get_input_embeddings()(ids.clamp(min=0, max=vocab_size - 1))
        new = self.new_embeddings((ids - vocab_size).clamp(min=0))
        return torch.where((ids >= vocab_size)[..., None], new, old)

    def _put_in(self, ids: Tensor, image_tokens: Tensor | None, region_tokens: Sequence[Tensor] | None) -> "_Prompts":
        """All prompts [B, T] of a batch at once, with what the picture shows behind its marks."""
        is_word = ids != PADDING
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        lengths, values = is_word.sum(dim=1), [self._embed(ids)]
        put_in = list[tuple[Tensor, Tensor, Tensor]]()  # each kind's mark [B, 1], number [B, 1], and places [B, N]
        for start, tokens, counts in self._seen(ids, image_tokens, region_tokens):
            found = ids == start
            counts = torch.where(found.any(dim=1), counts, 0)[:, None]
            mark = found.int().argmax(dim=1, keepdim=True)
            offsets = torch.arange(tokens.shape[1], device=ids.device).expand(len(ids), -1)
            put_in.append((mark, counts, offsets))
            values.append(tokens)
            lengths = lengths + counts[:, 0]
        longest = int(lengths.max())
        # Whatever is no part of a prompt goes to one place behind the longest, and is cut off there.
        moved = [torch.where(is_word, places + sum((places > mark) * counts for mark, counts, _ in put_in), longest)]
        for mark, counts, offsets in put_in:
            first = mark + 1 + sum((mark > other) * many for other, many, _ in put_in)
            moved.append(torch.where(offsets < counts, first + offsets, longest))
        every = torch.cat(values, dim=1)
        index = torch.cat(moved, dim=1)[..., None].expand_as(every)
        embeddings = every.new_zeros(len(ids), longest + 1, every.shape[-1]).scatter(1, index, every)[:, :-1]
        attended = torch.arange(longest, device=ids.device) < lengths[:, None]
        return _Prompts(embeddings, attended, places=moved[0], ids=_moved(ids, moved[0], longest, PADDING))

    def _seen(
        self, ids: Tensor, image_tokens: Tensor | None, region_tokens: Sequence[Tensor] | None
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Each kind's mark, its tokens [B, N, width], zeros behind the last, and how many they are [B]."""
        if image_tokens is not None:
            images = self.adapter(image_tokens.to(self.dtype))
            yield self.image_start, images, torch.full(images.shape[:1], images.shape[1], device=ids.device)
        if region_tokens is not None and any(len(tokens) for tokens in region_tokens):
            regions = pad_sequence([tokens.to(self.dtype) for tokens in region_tokens], batch_first=True)
            yield self.regions_start, regions, torch.tensor([*map(len, region_tokens)], device=ids.device)

    def _img_states(self, hidden: Tensor, is_img: Tensor) -> Tensor:
        """The states at the [IMG] tokens, which stand side by side, [B, img_tokens, width]; zeros where are none."""
        first = is_img.int().argmax(dim=1, keepdim=True)
        places = first + torch.arange(self.prompt_config.img_tokens, device=hidden.device)
        places = places.clamp(max=hidden.shape[1] - 1)[..., None].expand(-1, -1, hidden.shape[-1])
        return torch.where(is_img.any(dim=1)[:, None, None], hidden.gather(1, places), 0)

    def _losses(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy over all labelled tokens, and over those of each prompt alone [B], detached."""
        wanted = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        places = (wanted != IGNORED).flatten().nonzero()[:, 0]
        surprises = hidden.new_zeros(wanted.numel(), dtype=torch.float32)
        if len(places) == 0:
            return surprises.new_zeros(()), surprises.new_zeros(len(hidden))
        speaking, wanted_there = hidden.flatten(0, 1)[places], wanted.flatten()[places]
        logits = torch.cat([self.llm.lm_head(speaking), self.new_head(speaking)], dim=-1)
        log_probabilities = F.log_softmax(logits.float(), dim=-1)
        surprises[places] = F.nll_loss(log_probabilities.detach(), wanted_there, reduction="none")
        counts = (wanted != IGNORED).sum(dim=1).clamp(min=1)
        return F.nll_loss(log_probabilities, wanted_there), surprises.view_as(wanted).sum(dim=1) / counts


@dataclass(frozen=True)
class _Prompts:
    """Prompts of one batch with everything put in, padded to the longest."""

    embeddings: Tensor
    """[B, L, width]."""
    attended: Tensor
    """bool [B, L]."""
    places: Tensor
    """[B, T]: where each input id has gone, L if it is padding."""
    ids: Tensor
    """[B, L]; PADDING at what was put in, too."""

    def moved(self, values: Tensor, filling: int) -> Tensor:
        """[B, T], one for each input id -> [B, L]."""
        return _moved(values, self.places, self.ids.shape[1], filling)


def _moved(values: Tensor, places: Tensor, length: int, filling: int) -> Tensor:
    return values.new_full((len(values), length + 1), filling).scatter(1, places, values)[:, :-1]
