"""The LLM at nano size: it reads a picture, its regions and an instruction, and says in words what it understood.

The paper takes a LLaVA that can do this before it learns to edit. Ours learns it here, from exact answers about drawn
scenes: what is there, which region is which, what an instruction means, and what the picture shows after it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import AutoTokenizer

from fireedit.jobs.training.held_out import HELD_OUT
from fireedit.jobs.training.loop import PretrainRecipe
from fireedit.jobs.training.nano_folder import frozen, load_weights
from fireedit.jobs.training.parts.lessons import KNOWLEDGE, Lesson, known_by_use, make_lesson
from fireedit.models.detector import Detector
from fireedit.models.model import FireEdit, FireEditConfig
from fireedit.models.region_encoder import RegionEncoder
from fireedit.models.tokens import IGNORED, PADDING, Prompt, PromptTokenizer
from fireedit.models.vision import Vision
from fireedit.models.vlm import VLM
from fireedit.platform.scenes import language
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.sheet import Card, Panel, card_sheet

OPEN = ("description", "after")
"""Kinds that have several good answers; the others are right or wrong."""
SHOWN = 12
RIGHT, WRONG = (38, 120, 60), (170, 50, 50)


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe(PretrainRecipe):
    held_out: PositiveInt = 256
    """Held-out lessons whose every question is asked."""


class LanguageTask:
    """VLM's own LLaMA, adapter and rows of the marks; LoRA stays a no-op and the [IMG] rows fresh for the stages."""

    name = "llm"

    def __init__(self, sizes: FireEditConfig, recipe: LanguageRecipe, out: Path):
        self.sizes, self.recipe = sizes, recipe
        self.prompts = PromptTokenizer(
            AutoTokenizer.from_pretrained(out / "vlm_tokenizer"), sizes.vlm.vocab_size, sizes.vlm.prompt
        )
        vlm = VLM(sizes.vlm)
        self.eyes = FireEdit(
            vision=frozen(Vision(sizes.vision), out / "vision"),
            detector=frozen(Detector(sizes.detector), out / "detector"),
            region_encoder=frozen(RegionEncoder(sizes.region_encoder), out / "region_encoder"),
        )
        for name, parameter in vlm.named_parameters():
            # Of the new tokens only marks are read and none is said: the [IMG] rows get no gradient.
            parameter.requires_grad_("lora_" not in name and not name.startswith("new_head"))
        self.model: nn.Module = vlm

    def draw(self, renderer: Renderer, seed: int) -> dict[str, Tensor]:
        return self._row(renderer, make_lesson(TRAIN, seed))

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ids, labels = batch["input_ids"].long(), batch["labels"].long()
        return {"loss": model(ids, labels, *self._seen(batch)).loss}

    def figures(self, model: nn.Module) -> dict[str, float]:
        """On held-out scenes, every question in a prompt of its own: perplexity of a token of an answer over all kinds,
        and for each kind with one good answer the share that is said word for word, each token after the right ones.
        Instructions of the world `knowledge` are asked beside them."""
        draw, asked, surprise, tokens = Renderer(), list[tuple[str, Mapping[str, Tensor]]](), 0.0, 0
        lessons = [make_lesson(HELD_OUT, seed) for seed in HELD_OUT.seeds[: self.recipe.held_out]]
        lessons += [known_by_use(seed) for seed in KNOWLEDGE.seeds[: self.recipe.held_out // 2]]
        for lesson in lessons:
            for turn in lesson.turns:
                asked.append((turn.kind, self._row(draw, replace(lesson, turns=(turn,)))))
        right: dict[str, list[bool]] = {}
        for first in range(0, len(asked), 64):
            kinds, rows = zip(*asked[first : first + 64], strict=True)
            said = self._say(model, default_collate(list(rows)))
            surprise, tokens = surprise + said.surprise, tokens + sum(len(words) for words in said.wanted)
            for kind, words, wanted in zip(kinds, said.words, said.wanted, strict=True):
                right.setdefault(kind, []).append(torch.equal(words, wanted))
        exact = {f"exact_{kind}": sum(those) / len(those) for kind, those in sorted(right.items()) if kind not in OPEN}
        return {"perplexity": round(math.exp(surprise / tokens), 4), **{name: round(x, 4) for name, x in exact.items()}}

    def preview(self, model: nn.Module) -> Image.Image:
        """The first held-out lessons with pictures, a question each; beside a given region stands its number."""
        draw, cards, decode = Renderer(), list[Card](), self.prompts.tokenizer.decode
        for seed in HELD_OUT.seeds[: 4 * SHOWN]:
            lesson = make_lesson(HELD_OUT, seed)
            if not lesson.turns or len(cards) == SHOWN:
                continue
            turn = lesson.turns[0]
            row = self._row(draw, replace(lesson, turns=(turn,)))
            said = self._say(model, default_collate([row]))
            words = decode(said.words[0], skip_special_tokens=True).strip()
            panel = Panel(image=row["view"].numpy(), boxes=lesson.regions, scores=range(1, len(lesson.regions) + 1))
            card = Card(title=turn.kind, note="", color=RIGHT if words == turn.answer else WRONG, words=turn.question)
            cards.append(replace(card, panels=(panel,), aside=f"{words} (wanted: {turn.answer})"))
        return card_sheet(cards, columns=3, side=192)

    def load(self, folder: Path) -> None:
        load_weights(self.model, folder / "vlm")

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, VLM)
        model.half().save_pretrained(folder / "vlm")

    def _row(self, renderer: Renderer, lesson: Lesson) -> dict[str, Tensor]:
        """One lesson as tensors of fixed sizes.

        Returns:
            view: uint8 [S, S, 3]. input_ids, labels: int16 [max_tokens]. boxes: [max_regions, 4], of which the first
            `given`, uint8 [], are given.
        """
        prompt, longest = self._prompt(lesson), self.prompts.config.max_tokens
        ids, labels = np.full(longest, PADDING, np.int16), np.full(longest, IGNORED, np.int16)
        ids[: len(prompt.input_ids)], labels[: len(prompt.labels)] = prompt.input_ids, prompt.labels
        boxes = np.zeros((self.sizes.detector.proposals.max_regions, 4), np.float32)
        boxes[: len(lesson.regions)] = np.array(lesson.regions, np.float32).reshape(-1, 4)
        return {
            "view": torch.from_numpy(renderer.draw(lesson.scene, self.sizes.vision.image_size).image.copy()),
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "boxes": torch.from_numpy(boxes),
            "given": torch.tensor(len(lesson.regions), dtype=torch.uint8),
        }

    def _prompt(self, lesson: Lesson) -> Prompt:
        if lesson.turns:
            return self.prompts.dialogue(
                [turn.question for turn in lesson.turns], [turn.answer for turn in lesson.turns]
            )
        # Stage 1's prompt without the [IMG] tokens that answer it: here its own words are learnt.
        seed = lesson.scene.background_seed
        prompt = self.prompts.caption(language.caption(lesson.scene, seed), template=seed)
        ids = [token for token in prompt.input_ids if token < self.sizes.vlm.vocab_size]
        return Prompt(ids, ids)

    @torch.no_grad()
    def _seen(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Compute image tokens and tokens of the given regions, or else of the detector's."""
        counts = batch["given"].tolist()
        boxes = [own[:count] if count else None for own, count in zip(batch["boxes"].cpu(), counts, strict=True)]
        percepts = self.eyes.to(batch["view"].device).perceive(batch["view"], boxes, detail=False)
        return percepts.image_tokens, percepts.region_tokens

    @torch.no_grad()
    def _say(self, model: nn.Module, batch: Mapping[str, Tensor]) -> "_Said":
        """What the LLM finds likeliest at every token of the answers, each after the right ones before it."""
        assert isinstance(model, VLM)
        batch = {name: value.to(model.device) for name, value in batch.items()}
        logits = list[Tensor]()  # of the answers' tokens alone, one prompt after another
        heads = (model.llm.lm_head, model.new_head)
        hooks = [head.register_forward_hook(lambda head, inputs, output: logits.append(output)) for head in heads]
        labels = batch["labels"].long()
        understood = model(batch["input_ids"].long(), labels, *self._seen(batch))
        for hook in hooks:
            hook.remove()
        learnt = labels[:, 1:] != IGNORED
        counts = learnt.sum(dim=1)
        return _Said(
            words=torch.cat(logits, dim=-1).argmax(dim=-1).split(counts.tolist()),
            wanted=labels[:, 1:][learnt].split(counts.tolist()),
            surprise=float((understood.losses * counts).sum()),
        )


@dataclass(frozen=True)
class _Said:
    """Answers to B prompts."""

    words: tuple[Tensor, ...]
    """Ids [T_b] of each answer."""
    wanted: tuple[Tensor, ...]
    """As many."""
    surprise: float
    """Cross entropy, summed over all tokens."""
