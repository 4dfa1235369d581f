"""The LLM at nano size: it answers questions about an image, its regions and an instruction.

The paper starts from a LLaVA that can do this before it learns to edit. Here it learns from exact answers about
procedural scenes: their contents, regions, referents of instructions, and the image after an edit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor
from torch.utils.data import default_collate
from transformers import AutoTokenizer

from fireedit.jobs.training.conversations import KNOWLEDGE, Conversation, conversation_by_use, make_conversation
from fireedit.jobs.training.held_out import HELD_OUT, RIGHT, SHOWN, WRONG
from fireedit.jobs.training.nano_folder import frozen, load_weights
from fireedit.jobs.training.pretraining import PretrainRecipe
from fireedit.models.detectors.kinds import build_detector
from fireedit.models.model import FireEdit, FireEditConfig
from fireedit.models.region_encoder import RegionEncoder
from fireedit.models.tokens import IGNORED, PADDING, Prompt, PromptTokenizer
from fireedit.models.vision import Vision
from fireedit.models.vlm import VLM
from fireedit.platform.scenes import language
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.sheet import Card, Panel, card_sheet

OPEN = ("description", "after")
"""Kinds of questions with several good answers; the others are counted as right or wrong."""


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe(PretrainRecipe):
    held_out: PositiveInt = 256
    """Held-out conversations whose every question is asked for the figures."""


class LanguageTask:
    """LLaMA, adapter and rows of the mark tokens; LoRA stays a no-op and the [IMG] rows fresh for the stages."""

    name = "llm"

    def __init__(self, sizes: FireEditConfig, recipe: LanguageRecipe, out: Path):
        self.sizes, self.recipe = sizes, recipe
        self.prompts = PromptTokenizer(
            AutoTokenizer.from_pretrained(out / "vlm_tokenizer"), sizes.vlm.vocab_size, sizes.vlm.prompt
        )
        vlm = VLM(sizes.vlm)
        self.perception = FireEdit(
            vision=frozen(Vision(sizes.vision), out / "vision"),
            detector=frozen(build_detector(sizes.detector), out / "detector"),
            region_encoder=frozen(RegionEncoder(sizes.region_encoder), out / "region_encoder"),
        )
        for name, parameter in vlm.named_parameters():
            # Of the new tokens only marks are read and none is predicted: the [IMG] rows get no gradient.
            parameter.requires_grad_("lora_" not in name and not name.startswith("new_head"))
        self.model = vlm

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Draw a conversation; see `row`."""
        return self.row(make_conversation(TRAIN, seed))

    def losses(self, model: VLM, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ids, labels = batch["input_ids"].long(), batch["labels"].long()
        return {"loss": model(ids, labels, *self.perceive(batch)).losses.mean()}

    def figures(self, model: VLM) -> dict[str, float]:
        """Ask every question of held-out conversations in a prompt of its own, and some of the world `knowledge`.

        Returns:
            perplexity of the answers' tokens over all kinds of questions; for each kind with one good answer the share
            that is predicted word for word, each token after the true ones.
        """
        kinds, rows = zip(*self._held_out_questions(), strict=True)
        nll, tokens, right = 0.0, 0, dict[str, list[bool]]()
        for first in range(0, len(rows), 64):
            answers, true_answers, answers_nll = self.answer(model, default_collate(list(rows[first : first + 64])))
            nll, tokens = nll + answers_nll, tokens + sum(map(len, true_answers))
            for kind, answer, true in zip(kinds[first:], answers, true_answers, strict=False):
                right.setdefault(kind, []).append(torch.equal(answer, true))
        exact = {kind: round(sum(hits) / len(hits), 4) for kind, hits in sorted(right.items()) if kind not in OPEN}
        return {"perplexity": round(math.exp(nll / tokens), 4)} | {f"exact_{kind}": exact[kind] for kind in exact}

    def preview(self, model: VLM) -> Image.Image:
        """Draw the first held-out conversations with images, one question each; given regions are numbered."""
        cards, decode = list[Card](), self.prompts.tokenizer.decode
        for seed in HELD_OUT.seeds[: 4 * SHOWN]:
            conversation = make_conversation(HELD_OUT, seed)
            if not conversation.turns or len(cards) == SHOWN:
                continue
            turn, boxes = conversation.turns[0], conversation.regions
            row = self.row(replace(conversation, turns=(turn,)))
            answer = decode(self.answer(model, default_collate([row]))[0][0], skip_special_tokens=True).strip()
            card = Card(
                title=turn.kind,
                note="",
                color=RIGHT if answer == turn.answer else WRONG,
                words=turn.question,
                panels=(Panel(image=row["view"].numpy(), boxes=boxes, scores=range(1, len(boxes) + 1)),),
                aside=f"{answer} (true: {turn.answer})",
            )
            cards.append(card)
        return card_sheet(cards, columns=3, side=192)

    def load(self, folder: Path) -> None:
        load_weights(self.model, folder / "vlm")

    def save(self, model: VLM, folder: Path) -> None:
        model.half().save_pretrained(folder / "vlm")

    def row(self, conversation: Conversation) -> dict[str, Tensor]:
        """Encode a conversation as tensors of fixed sizes.

        Returns:
            view: uint8 [S, S, 3]. input_ids, labels: int16 [max_tokens]. boxes: [max_regions, 4] xyxy in [0, 1];
            given: uint8 [], number of boxes that are given.
        """
        prompt, longest = self._prompt(conversation), self.prompts.config.max_tokens
        ids, labels = np.full(longest, PADDING, np.int16), np.full(longest, IGNORED, np.int16)
        ids[: len(prompt.input_ids)], labels[: len(prompt.labels)] = prompt.input_ids, prompt.labels
        boxes = np.zeros((self.sizes.detector.proposals.max_regions, 4), np.float32)
        boxes[: len(conversation.regions)] = np.array(conversation.regions, np.float32).reshape(-1, 4)
        return {
            "view": torch.from_numpy(draw_scene(conversation.scene, self.sizes.vision.image_size).image.copy()),
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "boxes": torch.from_numpy(boxes),
            "given": torch.tensor(len(conversation.regions), dtype=torch.uint8),
        }

    def _prompt(self, conversation: Conversation) -> Prompt:
        """Tokenize the turns of a conversation, or the caption of one without turns."""
        if turns := conversation.turns:
            return self.prompts.dialogue([turn.question for turn in turns], [turn.answer for turn in turns])
        # Stage 1's prompt without the [IMG] tokens that answer it: here the LLM learns the prompt's own words.
        seed = conversation.scene.background_seed
        prompt = self.prompts.caption(language.caption(conversation.scene, seed), template=seed)
        ids = [token for token in prompt.input_ids if token < self.sizes.vlm.vocab_size]
        return Prompt(ids, ids)

    @torch.no_grad()
    def perceive(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Compute image tokens and tokens of the given regions, or else of the detector's."""
        counts = batch["given"].tolist()
        boxes = [own[:count] if count else None for own, count in zip(batch["boxes"].cpu(), counts, strict=True)]
        percepts = self.perception.to(batch["view"].device).perceive(batch["view"], boxes)
        return percepts.image_tokens, percepts.region_tokens

    @torch.no_grad()
    def answer(self, model: VLM, batch: Mapping[str, Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], float]:
        """Predict every token of the answers to B prompts, each after the true ones before it.

        Returns:
            ids [T_b] of the likeliest and of the true answers, and the summed negative log likelihood of the true ones.
        """
        batch = {name: value.to(model.device) for name, value in batch.items()}
        logits = list[Tensor]()  # of the answers' tokens alone, concatenated over the prompts
        heads = (model.llm.lm_head, model.new_head)
        hooks = [head.register_forward_hook(lambda head, inputs, output: logits.append(output)) for head in heads]
        labels = batch["labels"].long()
        output = model(batch["input_ids"].long(), labels, *self.perceive(batch))
        for hook in hooks:
            hook.remove()
        labelled = labels[:, 1:] != IGNORED
        counts = labelled.sum(dim=1)
        predicted = torch.cat(logits, dim=-1).argmax(dim=-1).split(counts.tolist())
        true = labels[:, 1:][labelled].split(counts.tolist())
        return predicted, true, float((output.losses * counts).sum())

    def _held_out_questions(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield kind and row of every question of the held-out conversations."""
        count = self.recipe.held_out
        conversations = [make_conversation(HELD_OUT, seed) for seed in HELD_OUT.seeds[:count]]
        conversations += [conversation_by_use(seed) for seed in KNOWLEDGE.seeds[: count // 2]]
        for conversation in conversations:
            for turn in conversation.turns:
                yield turn.kind, self.row(replace(conversation, turns=(turn,)))
