"""CLIP at nano size: text encoder and vision model, trained on captions and on questions about instructions."""

import random
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import NonNegativeFloat, PositiveInt
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from fireedit.jobs.evaluation.clip import CLIP, JUDGE
from fireedit.jobs.training.held_out import (
    HELD_OUT,
    RIGHT,
    SHOWN,
    WRONG,
    accuracy,
    held_out_batches,
    known_cross_entropy,
)
from fireedit.jobs.training.nano_folder import load_weights, read_component, saved
from fireedit.jobs.training.pretraining import PretrainRecipe
from fireedit.models.checkpoint_files import read_tensors
from fireedit.models.model import FireEditConfig
from fireedit.models.text import build_text_encoder
from fireedit.models.tokens import IGNORED
from fireedit.models.vision import Vision
from fireedit.platform.scenes import language
from fireedit.platform.scenes.edits import PLAIN, Edit
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.objects import COLORS
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.scene import EFFECTS, Placed
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.sheet import Card, Panel, card_sheet

SIDES, SIZES = ("left", "right"), ("bigger", "smaller")
QUESTIONS: dict[str, tuple[str, ...]] = {
    "operation": tuple(PLAIN),
    "before": ("", *TRAIN.things),
    "before_color": ("", *COLORS),
    "second": ("", *TRAIN.things),
    "second_color": ("", *COLORS),
    "category": ("", *language.NAMED_CATEGORIES),
    "which": ("", *SIDES, "leftmost", "rightmost", *SIZES, "biggest", "smallest", "first", "second", "third"),
    "counted_from": ("", *SIDES),
    "mirror": ("", "in", "outside"),
    "after": ("", *TRAIN.things),
    "after_color": ("", *COLORS),
    "direction": ("", *SIDES),
    "size": ("", *SIZES),
    "place": ("", *SIDES, "top"),
    "beside": ("", *TRAIN.things),
    "background": ("", *TRAIN.backgrounds),
    "style": ("", *EFFECTS),
}
"""Classes of the linear probes of an instruction, by question; "" where the instruction does not say."""
INSTRUCTIONS = 4
"""Instructions of a sample: that of its own edit, and those of other edits, which are not rendered."""


@dataclass(frozen=True, kw_only=True)
class CLIPRecipe(PretrainRecipe):
    instruction_weight: NonNegativeFloat = 0.1
    """Weight of the summed cross entropy of the questions; the contrastive loss has weight 1."""
    held_out: PositiveInt = 256
    """Held-out edits that the figures are computed on."""


class CLIPWithProbes(nn.Module):
    """CLIP, and linear probes of instructions that are discarded afterwards."""

    def __init__(self, sizes: FireEditConfig):
        super().__init__()
        self.clip = CLIP(build_text_encoder(sizes.text), Vision(sizes.vision).clip)
        self.readers = nn.Linear(sizes.text.width, sum(map(len, QUESTIONS.values())))

    def answer(self, pooled: Tensor) -> tuple[Tensor, ...]:
        """Logits of the answers to each of `QUESTIONS`, from the pooled states of `CLIP.read`."""
        return self.readers(pooled).split([*map(len, QUESTIONS.values())], dim=-1)


class CLIPTask:
    """Contrastive loss of images and captions, and questions about instructions.

    A batch holds the sources and targets of edits, so that every caption has a negative that differs in a word or two.
    Images are encoded at both sizes at which HVCA reads CLIP's states. The UNet reads the states of instructions,
    which captions do not train: linear probes of the last state must answer all that matters for the edit
    (`QUESTIONS`), also where an object is only named by its use.
    """

    name = "clip"

    def __init__(self, sizes: FireEditConfig, recipe: CLIPRecipe, out: Path):
        self.sizes, self.recipe = sizes, recipe
        self.tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
        self.model = CLIPWithProbes(sizes)

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Draw source and target of an edit, and some instructions.

        Returns:
            pictures: uint8 [2, S, S, 3]. captions: int16 [2, T] ids; captions_sum: int64 [2], their checksums.
            instructions: int16 [INSTRUCTIONS, T] ids, this edit's first. answers: int16 [INSTRUCTIONS, questions],
            classes or IGNORED.
        """
        world = TRAIN if seed in TRAIN.seeds else HELD_OUT
        others = random.Random(f"instructions {seed}").sample(world.seeds, INSTRUCTIONS - 1)
        edits = [make_edit(world, number) for number in (seed, *others)]
        scenes = edits[0].source, edits[0].target
        images = [draw_scene(scene, self.sizes.vision.image_size).image for scene in scenes]
        captions = [language.caption(scene, seed) for scene in scenes]
        ids = self.token_ids([*captions, *(edit.instruction for edit in edits)])
        return {
            "pictures": torch.from_numpy(np.stack(images)),
            "captions": ids[:2],
            "captions_sum": torch.tensor([zlib.crc32(caption.encode()) for caption in captions]),
            "instructions": ids[2:],
            "answers": torch.tensor([answers_of(edit) for edit in edits], dtype=torch.int16),
        }

    def losses(self, model: CLIPWithProbes, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        clip, images = model.clip, batch["pictures"].transpose(0, 1).flatten(0, 1)
        captions, instructions = batch["captions"].transpose(0, 1).flatten(0, 1), batch["instructions"].flatten(0, 1)
        lengths = [len(captions), len(instructions)]
        captions_read, instructions_read = clip.read(torch.cat([captions, instructions]).long()).split(lengths)
        texts, sums = clip.texts(captions_read), batch["captions_sum"].T.flatten()
        # Moved and resized objects leave a caption unchanged: equal captions are positives of each other.
        positive = sums[:, None] == sums[None]
        sides = (self.sizes.vision.detail_size, self.sizes.vision.image_size)
        contrastive = [contrastive_loss(clip.pictures(images, side), texts, clip.scale(), positive) for side in sides]
        answers = batch["answers"].flatten(0, 1).long().unbind(dim=-1)
        pairs = zip(model.answer(instructions_read), answers, strict=True)
        contrast = torch.stack(contrastive).mean()
        instruction = torch.stack([known_cross_entropy(logits, labels) for logits, labels in pairs]).sum()
        loss = contrast + self.recipe.instruction_weight * instruction
        return {"loss": loss, "contrast": contrast, "instruction": instruction}

    def figures(self, model: CLIPWithProbes) -> dict[str, float]:
        """Compute shares in [0, 1] on held-out scenes.

        `image_to_text`, `text_to_image`: the nearest of `held_out` is the right one. `twin_accuracy`: so is the nearer
        of the captions of source and target, where they differ. The others: answers to instructions that name one.
        """
        hits: dict[str, list[Tensor]] = defaultdict(list)
        images, texts, sums = self._embed_held_out(model)
        positive, cosines = sums[0][:, None] == sums[0][None], images[0] @ texts[0].T
        hits["image_to_text"].append(positive.gather(1, cosines.argmax(dim=1, keepdim=True)))
        hits["text_to_image"].append(positive.gather(0, cosines.argmax(dim=0, keepdim=True)))
        nearer = (images * texts).sum(dim=-1) > (images * texts.flip(0)).sum(dim=-1)
        hits["twin_accuracy"].append(nearer[:, sums[0] != sums[1]])
        for batch in held_out_batches(self.draw, self.recipe.held_out, 64):
            ids, labels = (batch[name].flatten(0, 1).long().to(images.device) for name in ("instructions", "answers"))
            answers = model.answer(model.clip.read(ids))
            for question, logits, right in zip(QUESTIONS, answers, labels.T, strict=True):
                hits[question].append((logits.argmax(dim=-1) == right)[(right > 0) | (question == "operation")])
        return {name: accuracy(values) for name, values in hits.items()}

    def preview(self, model: CLIPWithProbes) -> Image.Image:
        """Draw held-out images with the nearest of `held_out` captions, and their own where that is another one."""
        embedded, texts, sums = self._embed_held_out(model)
        cosines = embedded[0, :SHOWN] @ texts[0].T
        images = torch.cat([batch["pictures"][:, 0] for batch in held_out_batches(self.draw, SHOWN, SHOWN)])
        seeds = HELD_OUT.seeds[: self.recipe.held_out]
        captions = [language.caption(make_edit(HELD_OUT, seed).source, seed) for seed in seeds]
        cards = []
        for number, (nearest, image) in enumerate(zip(cosines.argmax(dim=1).tolist(), images, strict=True)):
            right = bool(sums[0, nearest] == sums[0, number])
            card = Card(
                title="right" if right else "wrong",
                note=f"{cosines[number, nearest]:.2f}",
                color=RIGHT if right else WRONG,
                words=captions[nearest],
                aside="" if right else captions[number],
                panels=[Panel(image=image.numpy())],
            )
            cards.append(card)
        return card_sheet(cards, columns=3, side=192)

    def load(self, folder: Path) -> None:
        """Load all but the probes, which are never saved; projections and scale start fresh without a saved judge."""
        clip = self.model.clip
        load_weights(clip.text_encoder, folder / "text_encoder")
        vision = read_component(Vision(self.sizes.vision), folder / "vision")
        clip.vision.load_state_dict(vision.clip.state_dict())
        if (folder / JUDGE).is_file():
            for name, value in read_tensors(folder / JUDGE).items():
                clip.get_parameter(name).data.copy_(value)

    def save(self, model: CLIPWithProbes, folder: Path) -> None:
        """Save in half precision; DINOv2 in the vision tower stays as it is, and is fresh if there is none."""
        clip = model.clip.half()
        clip.text_encoder.save_pretrained(folder / "text_encoder")
        vision = saved(Vision(self.sizes.vision), folder / "vision")
        vision.clip.load_state_dict(clip.vision.state_dict())
        vision.half().save_pretrained(folder / "vision")
        (folder / JUDGE).parent.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in clip.named_parameters()}
        judge = {name: x for name, x in weights.items() if "_projection." in name or name == "logit_scale"}
        save_file(judge, folder / JUDGE)

    def token_ids(self, texts: Sequence[str]) -> Tensor:
        """Tokenize texts that are never too long as `tokenize_text` does, to int16 and five times as fast."""
        ids = np.full((len(texts), self.sizes.text.tokens), self.sizes.text.eos_token_id, np.int16)
        for row, text in zip(ids, texts, strict=True):
            tokens = self.tokenizer.backend_tokenizer.encode(text).ids
            row[: len(tokens)] = tokens
        return torch.from_numpy(ids)

    def _embed_held_out(self, model: CLIPWithProbes) -> tuple[Tensor, Tensor, Tensor]:
        """Embed held-out sources and targets: images and captions, each [2, N, W], and checksums of captions [2, N]."""
        images, texts, sums = list[Tensor](), list[Tensor](), list[Tensor]()
        for batch in held_out_batches(self.draw, self.recipe.held_out, 64):
            batch = {name: value.transpose(0, 1).to(model.clip.logit_scale.device) for name, value in batch.items()}
            pairs, pixels = (2, batch["pictures"].shape[1]), batch["pictures"].flatten(0, 1)
            images.append(model.clip.pictures(pixels, self.sizes.vision.image_size).unflatten(0, pairs))
            states = model.clip.read(batch["captions"].flatten(0, 1).long())
            texts.append(model.clip.texts(states).unflatten(0, pairs))
            sums.append(batch["captions_sum"])
        return torch.cat(images, dim=1), torch.cat(texts, dim=1), torch.cat(sums, dim=1)


def answers_of(edit: Edit) -> list[int]:
    """Class of the answer to each of `QUESTIONS`; IGNORED where the words of the instruction do not determine it."""
    before, after = ([x for x in scene.objects if x.id in edit.edited] for scene in (edit.source, edit.target))
    if edit.family == "multiple":
        before.sort(key=lambda placed: edit.edited.index(placed.id))
    text, operation = edit.instruction, edit.operation
    answers: dict[str, str | None] = {
        "operation": operation,
        "before": _named_thing(before[:1], text),
        "before_color": _named_color(before[:1], text),
        "second": _named_thing(before[1:], text),
        "second_color": _named_color(before[1:], text),
        "category": _match(rf"\bthe (?:\w+ )?({'|'.join(language.NAMED_CATEGORIES)})\b", text),
        "which": _match(_WHICH, text) or _match(r"\bthe (?:\w+ ){1,3}on the (left|right)\b", text),
        "counted_from": _match(r"\bfrom the (left|right)\b", text),
        "mirror": "outside" if "outside the mirror" in text else "in" if _match(_REFLECTED, text) else "",
        "after": _named_thing(after[:1], text) if operation != "remove" else "",
        "after_color": _named_color(after[:1], text),
        "direction": _match(r"to the (left|right)\.", text) if operation == "move" else "",
        "size": _match(r"(bigger|smaller)\.", text) if operation == "resize" else "",
        "place": _match(r"(?:on|to|at) the (left|right|top)\b", text) if operation == "add" else "",
        "beside": _neighbor(edit) if operation == "add" else "",
        "background": edit.target.background if operation == "background" else "",
        "style": edit.target.effect if operation == "style" else "",
    }
    choices = [(QUESTIONS[name], answers[name]) for name in QUESTIONS]
    return [IGNORED if answer is None else classes.index(answer) for classes, answer in choices]


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, positive: Tensor) -> Tensor:
    """CLIP's symmetric cross entropy of unit vectors [B, W]; `positive`, bool [B, B], marks the matching pairs."""
    with torch.autocast(images.device.type, enabled=False):  # in bfloat16 the logits would be off by up to 0.4
        logits = scale.float() * images @ texts.T
    shares = positive / positive.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, shares) + F.cross_entropy(logits.T, shares)) / 2


_WHICH = rf"\bthe ({'|'.join(word for word in QUESTIONS['which'] if word)}) (?!of\b)\w"
_REFLECTED = r"(the reflection of|in the mirror)"


def _match(pattern: str, text: str) -> str:
    """First group of a pattern in a text; "" without a match."""
    match = re.search(pattern, text)
    return match[1] if match else ""


def _named_thing(objects: Sequence[Placed], instruction: str) -> str | None:
    """Name of the edited object if the instruction names it or its use; "" without an object."""
    if len(objects) != 1:
        return None if objects else ""
    thing = objects[0].thing
    is_named = thing.name in instruction or (thing.taught == "everywhere" and thing.use and thing.use in instruction)
    return thing.name if is_named else None


def _named_color(objects: Sequence[Placed], instruction: str) -> str | None:
    """Color of the edited object if the instruction names it; "" otherwise."""
    if len(objects) != 1:
        return None if objects else ""
    return objects[0].color if objects[0].color in re.findall(r"\w+", instruction) else ""


def _neighbor(edit: Edit) -> str | None:
    """Name of the object beside which another one is added."""
    if not (words := _match(r"to the (?:left|right) of (the .*)\.", edit.instruction)):
        return ""
    names = [placed.name for placed in edit.source.objects if placed.name in words]
    return names[0] if len(set(names)) == 1 else None
