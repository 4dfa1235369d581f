"""The LLM at nano size: it reads a picture, its regions and an instruction, and says in words what it understood.

The paper takes a LLaVA that can do this before it learns to edit. Ours learns it here, from exact answers about drawn
scenes: what is there, which region is which, what an instruction means, and what the picture shows after it.
"""

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import AutoTokenizer

from fireedit.jobs.pretraining.loop import PretrainRecipe
from fireedit.jobs.pretraining.saved import fill, frozen
from fireedit.jobs.pretraining.scenes import HELD_OUT, training_batches
from fireedit.models.detector import Detector, select_proposals
from fireedit.models.fireedit import FireEdit, FireEditConfig
from fireedit.models.layers.boxes import box_iou
from fireedit.models.region_encoder import RegionEncoder
from fireedit.models.tokens import IGNORED, PADDING, Prompt, PromptTokenizer
from fireedit.models.vision import Vision
from fireedit.models.vlm import VLM
from fireedit.platform.data.scenes import dialogue, language
from fireedit.platform.data.scenes.edits import Edit
from fireedit.platform.data.scenes.families import NO_OP, NO_OP_SHARE, go_on, make_edit
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.scenes.scene import Box, Placed, Scene
from fireedit.platform.data.scenes.world import TRAIN, World
from fireedit.platform.sheet import Card, Panel, card_sheet

KINDS = {
    "colour": "What color is ",
    "count": "How many ",
    "presence": "Is there ",
    "side": r"Is the .* to the left or ",
    "use": "Which object in the image can be used to ",
    "background": "What is in the background",
    "description": "Describe ",
}
"""Kinds of the questions of dialogue.py, by how they begin."""
OPEN = ("description", "after")
"""Kinds that have several good answers; the others are right or wrong."""
JITTER = 0.08
"""How far an edge of a given region is off, in sides of its box, at most."""
EMPTY_REGIONS = 2
"""Regions without an object that are given, at most."""
SHOWN = 12
RIGHT, WRONG = (38, 120, 60), (170, 50, 50)


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe(PretrainRecipe):
    held_out: PositiveInt = 256
    """Held-out lessons whose every question is asked."""


@dataclass(frozen=True)
class Turn:
    kind: str
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is asked about one scene."""

    scene: Scene
    turns: tuple[Turn, ...]
    """Empty for a lesson of words alone: the scene's caption."""
    regions: tuple[Box, ...] = ()
    """What the questions mean by region 1, 2, ...; the proposer's regions are shown where there are none."""


class LanguagePart:
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

    def batches(self, first: int, last: int) -> Iterable[Mapping[str, Tensor]]:
        return training_batches(self._training_row, first, last, self.recipe.batch, self.recipe.workers)

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": model(batch["input_ids"], batch["labels"], *self._seen(batch)).loss}

    def figures(self, model: nn.Module) -> dict[str, float]:
        """On held-out scenes, every question in a prompt of its own: perplexity of a token of an answer over all kinds,
        and for each kind with one good answer the share that is said word for word, each token after the right ones."""
        draw, asked, surprise, tokens = Renderer(), list[tuple[str, Mapping[str, Tensor]]](), 0.0, 0
        for seed in HELD_OUT.seeds[: self.recipe.held_out]:
            lesson = make_lesson(HELD_OUT, seed)
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

    def look(self, model: nn.Module) -> Image.Image:
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
            card = Card(title=turn.kind, note="", colour=RIGHT if words == turn.answer else WRONG, words=turn.question)
            cards.append(replace(card, panels=(panel,), aside=f"{words} (wanted: {turn.answer})"))
        return card_sheet(cards, columns=3, side=192)

    def load(self, folder: Path) -> None:
        fill(self.model, folder / "vlm")

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, VLM)
        model.half().save_pretrained(folder / "vlm")

    def _training_row(self, renderer: Renderer, seed: int) -> Mapping[str, Tensor]:
        return self._row(renderer, make_lesson(TRAIN, seed))

    def _row(self, renderer: Renderer, lesson: Lesson) -> dict[str, Tensor]:
        """One lesson as tensors of fixed sizes: the prompt, the view, and the given boxes [max_regions, 4], some of
        them real."""
        prompt = self._prompt(lesson)
        rest = self.prompts.config.max_tokens - len(prompt.input_ids)
        boxes = torch.zeros(self.sizes.detector.proposals.max_regions, 4)
        boxes[: len(lesson.regions)] = torch.tensor(lesson.regions).reshape(-1, 4)
        return {
            "view": torch.tensor(renderer.draw(lesson.scene, self.sizes.vision.image_size).image),
            "input_ids": torch.tensor(prompt.input_ids + [PADDING] * rest),
            "labels": torch.tensor(prompt.labels + [IGNORED] * rest),
            "boxes": boxes,
            "given": torch.tensor(len(lesson.regions)),
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
    def _seen(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Image tokens, and tokens of the given regions or else of the proposed ones."""
        eyes, device = self.eyes.to(batch["view"].device), batch["view"].device
        features = eyes.vision(batch["view"], detail=False)
        with torch.autocast(device.type, enabled=False):  # rounding would swap the ranks of the proposer's queries
            proposals = eyes.detector(torch.stack(features.maps).mean(dim=0).float())
        regions = []
        for index, given in enumerate(batch["given"].tolist()):
            boxes, scores = proposals.boxes[index], proposals.scores[index]
            best = select_proposals(boxes, scores, eyes.detector.proposal_config)
            regions.append(batch["boxes"][index, :given] if given else boxes[best])
        return features.image_tokens, eyes.region_encoder(features.maps[-3:], regions)

    @torch.no_grad()
    def _say(self, model: nn.Module, batch: Mapping[str, Tensor]) -> "_Said":
        """What the LLM finds likeliest at every token of the answers, each after the right ones before it."""
        assert isinstance(model, VLM)
        batch = {name: value.to(model.device) for name, value in batch.items()}
        logits = list[Tensor]()  # of the answers' tokens alone, one prompt after another
        heads = (model.llm.lm_head, model.new_head)
        hooks = [head.register_forward_hook(lambda head, inputs, output: logits.append(output)) for head in heads]
        understood = model(batch["input_ids"], batch["labels"], *self._seen(batch))
        for hook in hooks:
            hook.remove()
        learnt = batch["labels"][:, 1:] != IGNORED
        counts = learnt.sum(dim=1)
        return _Said(
            words=torch.cat(logits, dim=-1).argmax(dim=-1).split(counts.tolist()),
            wanted=batch["labels"][:, 1:][learnt].split(counts.tolist()),
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


def make_lesson(world: World, seed: int) -> Lesson:
    """The lesson of a seed of a world."""
    rng = random.Random(f"lesson {seed}")
    draws: dict[Callable[[World, int, random.Random], Lesson], float] = {
        _questions: 0.3,
        _instructions: 0.35,
        _regions: 0.25,
        _words: 0.1,
    }
    return rng.choices(list(draws), list(draws.values()))[0](world, seed, rng)


def meant(edit: Edit) -> str:
    """What an instruction is about, as one sees it in the source, and nothing of what is done to it."""
    if edit.family == NO_OP:
        return "Nothing."
    if not edit.edited:
        return "The background." if edit.operation == "background" else "The whole picture."
    there = {placed.id: placed for placed in edit.source.objects}
    if edit.operation == "add":
        new = [placed for placed in edit.target.objects if placed.id in edit.edited]
        return language.sentence(f"a new {language.singular(new[0].thing, new[0].color)}")
    return language.sentence(language.joined([f"the {told(there[number])}" for number in edit.edited]))


def told(placed: Placed) -> str:
    """An object by what one sees of it: "red car on the left"."""
    side = "left" if placed.x < 0.5 else "right"
    noun = language.singular(placed.thing, placed.looks)
    return f"{noun} on the {side}{' in the mirror' if placed.reflection else ''}"


def _questions(world: World, seed: int, rng: random.Random) -> Lesson:
    """All that dialogue.py asks about a scene."""
    scene = make_edit(world, seed).source
    turns = [Turn(_kind(question), question, answer) for question, answer in dialogue.dialogue(world, scene, seed)]
    return Lesson(scene=scene, turns=tuple(turns))


def _instructions(world: World, seed: int, rng: random.Random) -> Lesson:
    """What instructions mean in a scene, and what the picture would show after the first."""
    first = make_edit(world, seed, NO_OP if rng.random() < 3 * NO_OP_SHARE else None)
    more = [go_on(world, first.source, rng) for _ in range(2)]
    wanted = f"After the edit: {language.caption(first.target)}"
    turns = [Turn("after", f"{first.instruction} What does the picture show then?", wanted)]
    turns += [Turn("meant", f"{edit.instruction} What is meant?", meant(edit)) for edit in (first, *more) if edit]
    rng.shuffle(turns)
    return Lesson(scene=first.source, turns=tuple(turns))


def _regions(world: World, seed: int, rng: random.Random) -> Lesson:
    """Which region is what: all objects' boxes, a little off, and some that hold nothing, in any order."""
    edit = make_edit(world, seed)
    objects = edit.source.objects
    shown: list[tuple[Placed | None, Box]] = [(placed, _jittered(placed.box, rng)) for placed in objects]
    shown += [(None, box) for box in _empty_boxes(objects, rng)]
    rng.shuffle(shown)
    number_of = {placed.id: number for number, (placed, _) in enumerate(shown, 1) if placed}
    turns = []
    for number, (placed, _) in enumerate(shown, 1):
        answer = language.sentence(language.a(told(placed))) if placed else "Nothing."
        turns.append(Turn("region", f"What is region {number}?", answer))
    for placed in objects:
        if who := language.refer(rng, edit.source, placed):
            turns.append(Turn("which_region", f"Which region is {who}?", f"Region {number_of[placed.id]}."))
    numbers = [str(number_of[number]) for number in edit.edited if number in number_of]
    if numbers:
        answer = f"Region {' and '.join(numbers)}."
        turns.append(Turn("meant_region", f"{edit.instruction} Which region is meant?", answer))
    rng.shuffle(turns)
    return Lesson(scene=edit.source, turns=tuple(turns), regions=tuple(box for _, box in shown))


def _words(world: World, seed: int, rng: random.Random) -> Lesson:
    return Lesson(scene=make_edit(world, seed).target, turns=())


def _kind(question: str) -> str:
    return next(kind for kind, beginning in KINDS.items() if re.match(beginning, question))


def _jittered(box: Box, rng: random.Random) -> Box:
    """A box as a proposer might draw it."""
    left, top, right, bottom = box
    width, height = (right - left) * JITTER, (bottom - top) * JITTER
    edges = zip(box, (width, height, width, height), strict=True)
    left, top, right, bottom = (min(1.0, max(0.0, edge + rng.uniform(-off, off))) for edge, off in edges)
    return left, top, right, bottom


def _empty_boxes(objects: tuple[Placed, ...], rng: random.Random) -> list[Box]:
    """A few boxes that have next to nothing in common with those of the objects."""
    taken, found = torch.tensor([placed.box for placed in objects]), list[Box]()
    for _ in range(rng.randint(0, EMPTY_REGIONS)):
        width, height = rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        box = (left, top, left + width, top + height)
        if float(box_iou(torch.tensor([box]), taken).max()) < 0.05:
            found.append(box)
    return found
