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
from pydantic import PositiveInt
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from fireedit.jobs.evaluation.clip import CLIP, JUDGE
from fireedit.jobs.training.held_out import HELD_OUT, accuracy, held_out_batches, known_cross_entropy
from fireedit.jobs.training.loop import PretrainRecipe
from fireedit.jobs.training.nano_folder import saved
from fireedit.models.model import FireEditConfig
from fireedit.models.text import build_text_encoder
from fireedit.models.tokens import IGNORED
from fireedit.models.vision import Vision
from fireedit.platform.scenes import language
from fireedit.platform.scenes.edits import PLAIN, Edit
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.objects import COLORS
from fireedit.platform.scenes.render import Renderer
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
SHOWN = 12
"""Images on the sheet."""


@dataclass(frozen=True, kw_only=True)
class CLIPRecipe(PretrainRecipe):
    instruction_weight: float = 0.1
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

    def draw(self, renderer: Renderer, seed: int) -> dict[str, Tensor]:
        """Source and target of an edit, and some instructions.

        Returns:
            pictures: uint8 [2, S, S, 3]. captions: int16 [2, T] ids, and captions_sum: int64 [2], equal for equal ones.
            instructions: int16 [INSTRUCTIONS, T], this edit's first. answers: int16 [INSTRUCTIONS, questions], numbers
            of the right answers or IGNORED.
        """
        world = TRAIN if seed in TRAIN.seeds else HELD_OUT
        others = random.Random(f"instructions {seed}").sample(world.seeds, INSTRUCTIONS - 1)
        edits = [make_edit(world, number) for number in (seed, *others)]
        scenes = edits[0].source, edits[0].target
        drawn = [renderer.draw(scene, self.sizes.vision.image_size).image for scene in scenes]
        captions = [language.caption(scene, seed) for scene in scenes]
        ids = self._ids([*captions, *(edit.instruction for edit in edits)])
        return {
            "pictures": torch.from_numpy(np.stack(drawn)),
            "captions": ids[:2],
            "captions_sum": torch.tensor([zlib.crc32(caption.encode()) for caption in captions]),
            "instructions": ids[2:],
            "answers": torch.tensor([asked_of(edit) for edit in edits], dtype=torch.int16),
        }

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, CLIPWithProbes)
        clip, pictures = model.clip, batch["pictures"].transpose(0, 1).flatten(0, 1)
        captions, instructions = batch["captions"].transpose(0, 1).flatten(0, 1), batch["instructions"].flatten(0, 1)
        read, asked = clip.read(torch.cat([captions, instructions]).long()).split([len(captions), len(instructions)])
        texts, sums = clip.texts(read), batch["captions_sum"].T.flatten()
        # Moved and resized things leave a caption as it is: whatever has the same words counts as a match.
        alike = sums[:, None] == sums[None]
        sides = (self.sizes.vision.detail_size, self.sizes.vision.image_size)
        contrasts = [contrast(clip.pictures(pictures, side), texts, clip.scale(), alike) for side in sides]
        answers = batch["answers"].flatten(0, 1).long().unbind(dim=-1)
        told = [known_cross_entropy(*pair) for pair in zip(model.answer(asked), answers, strict=True)]
        both, instruction = torch.stack(contrasts).mean(), torch.stack(told).sum()
        loss = both + self.recipe.instruction_weight * instruction
        return {"loss": loss, "contrast": both, "instruction": instruction}

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Shares in [0, 1] on held-out scenes.

        `image_to_text`, `text_to_image`: the nearest of 256 is the right one. `twin_...`: so is the nearer of the
        captions of source and target, where they differ. The others: answers to instructions that say something.
        """
        assert isinstance(model, CLIPWithProbes)
        hits: dict[str, list[Tensor]] = defaultdict(list)
        images, texts, sums = self._embedded(model, self.recipe.held_out)
        same, likeness = sums[0][:, None] == sums[0][None], images[0] @ texts[0].T
        hits["image_to_text"].append(same.gather(1, likeness.argmax(dim=1, keepdim=True)))
        hits["text_to_image"].append(same.gather(0, likeness.argmax(dim=0, keepdim=True)))
        nearer = (images * texts).sum(dim=-1) > (images * texts.flip(0)).sum(dim=-1)
        hits["twin_accuracy"].append(nearer[:, sums[0] != sums[1]])
        for batch in held_out_batches(self.draw, self.recipe.held_out, 64):
            ids, known = (batch[name].flatten(0, 1).long().to(images.device) for name in ("instructions", "answers"))
            told = model.answer(model.clip.read(ids))
            for question, logits, answers in zip(QUESTIONS, told, known.T, strict=True):
                hits[question].append((logits.argmax(dim=-1) == answers)[(answers > 0) | (question == "operation")])
        return {name: accuracy(each) for name, each in hits.items()}

    def preview(self, model: nn.Module) -> Image.Image:
        """Held-out pictures with the nearest of 256 captions, and their own where that is another one."""
        assert isinstance(model, CLIPWithProbes)
        images, texts, sums = self._embedded(model, self.recipe.held_out)
        likeness = images[0, :SHOWN] @ texts[0].T
        drawn = torch.cat([batch["pictures"][:, 0] for batch in held_out_batches(self.draw, SHOWN, SHOWN)])
        seeds = HELD_OUT.seeds[: self.recipe.held_out]
        captions = [language.caption(make_edit(HELD_OUT, seed).source, seed) for seed in seeds]
        cards = []
        for number, (found, picture) in enumerate(zip(likeness.argmax(dim=1).tolist(), drawn, strict=True)):
            right = bool(sums[0, found] == sums[0, number])
            title, colour = ("right", (40, 120, 70)) if right else ("wrong", (170, 50, 50))
            note, aside = f"{likeness[number, found]:.2f}", "" if right else captions[number]
            panels = [Panel(image=picture.numpy())]
            cards.append(Card(title=title, note=note, colour=colour, words=captions[found], aside=aside, panels=panels))
        return card_sheet(cards, columns=3, side=192)

    def load(self, folder: Path) -> None:
        """The eye alone: texts are learnt anew, so that nothing of other training worlds stays in them."""
        self.model.clip.vision.load_state_dict(saved(Vision(self.sizes.vision), folder / "vision").clip.state_dict())

    def save(self, model: nn.Module, folder: Path) -> None:
        """In half precision; DINOv2's part of the vision tower stays as it is, and is fresh if there is none."""
        assert isinstance(model, CLIPWithProbes)
        clip = model.clip.half()
        clip.text_encoder.save_pretrained(folder / "text_encoder")
        vision = saved(Vision(self.sizes.vision), folder / "vision")
        vision.clip.load_state_dict(clip.vision.state_dict())
        vision.half().save_pretrained(folder / "vision")
        (folder / JUDGE).parent.mkdir(parents=True, exist_ok=True)
        kept = {
            name: value for name, value in clip.named_parameters() if "_projection." in name or name == "logit_scale"
        }
        save_file({name: value.detach().cpu().contiguous() for name, value in kept.items()}, folder / JUDGE)

    def _embedded(self, model: CLIPWithProbes, edits: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures and captions of held-out sources and targets: twice [2, N, W], and the captions' sums [2, N]."""
        images, texts, sums = list[Tensor](), list[Tensor](), list[Tensor]()
        for batch in held_out_batches(self.draw, edits, 64):
            batch = {name: value.transpose(0, 1).to(model.clip.logit_scale.device) for name, value in batch.items()}
            count, pictures = batch["pictures"].shape[1], batch["pictures"].flatten(0, 1)
            images.append(model.clip.pictures(pictures, self.sizes.vision.image_size).unflatten(0, (2, count)))
            read = model.clip.read(batch["captions"].flatten(0, 1).long())
            texts.append(model.clip.texts(read).unflatten(0, (2, count)))
            sums.append(batch["captions_sum"])
        return torch.cat(images, dim=1), torch.cat(texts, dim=1), torch.cat(sums, dim=1)

    def _ids(self, texts: Sequence[str]) -> Tensor:
        """As `tokenize_text`, in int16 and five times as fast, for texts that are never too long."""
        ids = np.full((len(texts), self.sizes.text.tokens), self.sizes.text.eos_token_id, np.int16)
        for row, text in zip(ids, texts, strict=True):
            own = self.tokenizer.backend_tokenizer.encode(text).ids
            row[: len(own)] = own
        return torch.from_numpy(ids)


def asked_of(edit: Edit) -> list[int]:
    """The right answer to each of `QUESTIONS` by its number; IGNORED where the words alone do not tell it."""
    before, after = ([one for one in scene.objects if one.id in edit.edited] for scene in (edit.source, edit.target))
    if edit.family == "multiple":
        before.sort(key=lambda placed: edit.edited.index(placed.id))
    text, operation = edit.instruction, edit.operation
    answers: dict[str, str | None] = {
        "operation": operation,
        "before": _thing(before[:1], text),
        "before_color": _color(before[:1], text),
        "second": _thing(before[1:], text),
        "second_color": _color(before[1:], text),
        "category": _found(rf"\bthe (?:\w+ )?({'|'.join(language.NAMED_CATEGORIES)})\b", text),
        "which": _found(_WHICH, text) or _found(r"\bthe (?:\w+ ){1,3}on the (left|right)\b", text),
        "counted_from": _found(r"\bfrom the (left|right)\b", text),
        "mirror": "outside" if "outside the mirror" in text else "in" if _found(_REFLECTED, text) else "",
        "after": _thing(after[:1], text) if operation != "remove" else "",
        "after_color": _color(after[:1], text),
        "direction": _found(r"to the (left|right)\.", text) if operation == "move" else "",
        "size": _found(r"(bigger|smaller)\.", text) if operation == "resize" else "",
        "place": _found(r"(?:on|to|at) the (left|right|top)\b", text) if operation == "add" else "",
        "beside": _beside(edit) if operation == "add" else "",
        "background": edit.target.background if operation == "background" else "",
        "style": edit.target.effect if operation == "style" else "",
    }
    return [IGNORED if answers[name] is None else known.index(answers[name] or "") for name, known in QUESTIONS.items()]


def contrast(images: Tensor, texts: Tensor, scale: Tensor, alike: Tensor) -> Tensor:
    """CLIP's symmetric cross entropy over a batch of unit vectors [B, W]; `alike` [B, B] says what belongs together."""
    with torch.autocast(images.device.type, enabled=False):  # in bfloat16 the logits would be off by up to 0.4
        logits = scale.float() * images @ texts.T
    shares = alike / alike.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, shares) + F.cross_entropy(logits.T, shares)) / 2


_WHICH = rf"\bthe ({'|'.join(word for word in QUESTIONS['which'] if word)}) (?!of\b)\w"
_REFLECTED = r"(the reflection of|in the mirror)"


def _found(pattern: str, text: str) -> str:
    """The word that a pattern finds, or none."""
    match = re.search(pattern, text)
    return match[1] if match else ""


def _thing(objects: Sequence[Placed], instruction: str) -> str | None:
    """What the edited thing is called, if there is one and the instruction names it or says its use."""
    if len(objects) != 1:
        return None if objects else ""
    thing = objects[0].thing
    told = thing.name in instruction or (thing.taught == "everywhere" and thing.use and thing.use in instruction)
    return thing.name if told else None


def _color(objects: Sequence[Placed], instruction: str) -> str | None:
    if len(objects) != 1:
        return None if objects else ""
    return objects[0].color if objects[0].color in re.findall(r"\w+", instruction) else ""


def _beside(edit: Edit) -> str | None:
    """The thing that another is put beside."""
    if not (words := _found(r"to the (?:left|right) of (the .*)\.", edit.instruction)):
        return ""
    named = [placed.name for placed in edit.source.objects if placed.name in words]
    return named[0] if len(set(named)) == 1 else None
