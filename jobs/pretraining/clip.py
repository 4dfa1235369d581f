"""CLIP at nano size: text encoder and vision model learn what caption and picture have in common."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, CLIPVisionModel, PreTrainedTokenizerBase

from fireedit.jobs.pretraining.loop import PretrainRecipe
from fireedit.jobs.pretraining.reading import known_cross_entropy, share, shown
from fireedit.jobs.pretraining.saved import fill, saved
from fireedit.jobs.pretraining.scenes import HELD_OUT, held_out_batches, training_batches
from fireedit.models.fireedit import FireEditConfig
from fireedit.models.text import build_text_encoder, tokenize_text
from fireedit.models.tokens import IGNORED
from fireedit.models.vision import CLIP_MEAN, CLIP_STD, Vision
from fireedit.platform.data.scenes import language
from fireedit.platform.data.scenes.edits import PLAIN, Edit
from fireedit.platform.data.scenes.families import make_edit
from fireedit.platform.data.scenes.objects import COLORS
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.scenes.scene import EFFECTS, Placed
from fireedit.platform.data.scenes.world import TRAIN
from fireedit.platform.sheet import Card, Panel, card_sheet

JUDGE = "judges/clip.safetensors"
"""The two projections and the scale, beside which the encoders lie where the pipeline looks for them."""
QUESTIONS: dict[str, tuple[str, ...]] = {
    "operation": tuple(PLAIN),
    "before": ("", *TRAIN.things),
    "before_color": ("", *COLORS),
    "after": ("", *TRAIN.things),
    "after_color": ("", *COLORS),
    "side": ("", "left", "right"),
    "background": ("", *TRAIN.backgrounds),
    "style": ("", *EFFECTS),
}
"""What an instruction is asked while training, and the possible answers; "" if it says nothing of it."""
MOST_SCALE = math.log(100)
HELD_OUT_SCENES = 256
SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class CLIPRecipe(PretrainRecipe):
    instruction_weight: float = 0.3
    """Of the mean cross entropy of the questions to an instruction, beside the contrast of pictures and captions."""


class CLIP(nn.Module):
    """What transformers' CLIPModel computes, around encoders that the pipeline also uses without it."""

    def __init__(self, text_encoder: CLIPTextModel, vision: CLIPVisionModel):
        super().__init__()
        self.text_encoder, self.vision = text_encoder, vision
        width, seen = text_encoder.config.hidden_size, vision.config.hidden_size
        self.text_projection = nn.Linear(width, width, bias=False)
        self.visual_projection = nn.Linear(seen, width, bias=False)
        for projection in (self.text_projection, self.visual_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def read(self, ids: Tensor) -> Tensor:
        """Ids [B, T] -> the states at their first end marks, [B, W]."""
        longest = int((ids != self.text_encoder.config.eos_token_id).sum(dim=1).max()) + 1
        return self.text_encoder(ids[:, :longest]).pooler_output  # causal: no state hangs on the padding behind it

    def texts(self, pooled: Tensor) -> Tensor:
        """What `read` returns -> unit vectors [B, W]."""
        return F.normalize(self.text_projection(pooled).float(), dim=-1)

    def pictures(self, pictures: Tensor, side: int) -> Tensor:
        """uint8 RGB [B, S, S, 3], shown at `side` pixels -> unit vectors [B, W]."""
        pixels = shown(pictures, side, CLIP_MEAN, CLIP_STD)
        pooled = self.vision(pixels, interpolate_pos_encoding=True).pooler_output
        return F.normalize(self.visual_projection(pooled).float(), dim=-1)

    def scale(self) -> Tensor:
        return self.logit_scale.clamp(max=MOST_SCALE).exp()


class CLIPJudge:
    """Unit vectors of pictures and texts, whose products are the CLIP-I and CLIP-T of our benchmark.

    A stand-in for OpenAI's CLIP, trained on the scenes that it judges: figures are not comparable with published ones.
    """

    def __init__(self, clip: CLIP, tokenizer: PreTrainedTokenizerBase, side: int):
        self.clip, self.tokenizer, self.side = clip.eval().requires_grad_(False), tokenizer, side

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """From the folder of a pipeline that this part was saved to."""
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        vision = Vision.from_pretrained(folder / "vision", dtype=torch.float32)
        clip = CLIP(text_encoder, vision.clip)
        for name, value in load_file(folder / JUDGE).items():
            clip.get_parameter(name).data.copy_(value)
        return cls(clip, AutoTokenizer.from_pretrained(folder / "tokenizer"), vision.config.image_size)

    def pictures(self, pictures: Tensor) -> Tensor:
        """uint8 RGB [B, S, S, 3] -> [B, W]."""
        return self.clip.pictures(pictures, self.side)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """B texts -> [B, W]."""
        length = self.clip.text_encoder.config.max_position_embeddings
        ids = tokenize_text(self.tokenizer, list(texts), length)
        return self.clip.texts(self.clip.read(ids.to(self.clip.logit_scale.device)))


class Learner(nn.Module):
    """CLIP, and the linear readers of what instructions ask, which are thrown away afterwards."""

    def __init__(self, sizes: FireEditConfig):
        super().__init__()
        self.clip = CLIP(build_text_encoder(sizes.text), Vision(sizes.vision).clip)
        self.readers = nn.ModuleDict(
            {question: nn.Linear(sizes.text.width, len(answers)) for question, answers in QUESTIONS.items()}
        )


class CLIPPart:
    """Contrast of pictures and captions, and questions to instructions.

    A batch holds the sources and targets of edits, so that every caption stands beside one that differs in a word or
    two. The pictures are shown at both sizes at which HVCA sees CLIP's states. Captions alone would leave instructions
    to chance, and the UNet reads their states: so linear readers of the pooled state have to tell operation, things,
    colours, side, background and style (`QUESTIONS`), also where a thing is only said by its use.
    """

    name = "clip"

    def __init__(self, sizes: FireEditConfig, recipe: CLIPRecipe, out: Path):
        self.sizes, self.recipe = sizes, recipe
        self.tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
        self.model = Learner(sizes)

    def batches(self, first: int, last: int) -> Iterable[Mapping[str, Any]]:
        assert self.recipe.batch % 2 == 0, self.recipe.batch
        return training_batches(self._edit, first, last, self.recipe.batch // 2, self.recipe.workers)

    def losses(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        assert isinstance(model, Learner)
        clip, pictures = model.clip, batch["pictures"].transpose(0, 1).flatten(0, 1)
        captions = self._ids(_captions(batch)).to(pictures.device)
        texts = clip.texts(clip.read(captions))
        # Moved and resized things leave a caption as it is: whatever has the same words counts as a match.
        alike = (captions[:, None] == captions[None]).all(dim=-1)
        sides = (self.sizes.vision.detail_size, self.sizes.vision.image_size)
        contrasts = [contrast(clip.pictures(pictures, side), texts, clip.scale(), alike) for side in sides]
        pooled = clip.read(self._ids(batch["instruction"]).to(pictures.device))
        asked = [
            known_cross_entropy(reader(pooled), answers)
            for reader, answers in zip(model.readers.values(), batch["answers"].T, strict=True)
        ]
        both, instruction = torch.stack(contrasts).mean(), torch.stack(asked).mean()
        loss = both + self.recipe.instruction_weight * instruction
        return {"loss": loss, "contrast": both, "instruction": instruction}

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Shares in [0, 1] on held-out scenes.

        `image_to_text`, `text_to_image`: the nearest of 256 is the right one. `twin_...`: so is the nearer of the
        captions of source and target, where they differ. The others: answers to instructions that say something.
        """
        assert isinstance(model, Learner)
        hits: dict[str, list[Tensor]] = defaultdict(list)
        images, texts, words = self._embedded(model, HELD_OUT_SCENES)
        same = torch.tensor([[one == other for other in words[0]] for one in words[0]], device=images.device)
        likeness = images[0] @ texts[0].T
        hits["image_to_text"].append(same.gather(1, likeness.argmax(dim=1, keepdim=True)))
        hits["text_to_image"].append(same.gather(0, likeness.argmax(dim=0, keepdim=True)))
        differ = torch.tensor([one != other for one, other in zip(*words, strict=True)], device=images.device)
        nearer = (images * texts).sum(dim=-1) > (images * texts.flip(0)).sum(dim=-1)
        hits["twin_accuracy"].append(nearer[:, differ])
        for batch in held_out_batches(self._edit, HELD_OUT_SCENES, 64):
            pooled = model.clip.read(self._ids(batch["instruction"]).to(images.device))
            for question, answers in zip(QUESTIONS, batch["answers"].T.to(images.device), strict=True):
                right = model.readers[question](pooled).argmax(dim=-1) == answers
                hits[question].append(right[(answers > 0) | (question == "operation")])
        return {name: share(each) for name, each in hits.items()}

    def look(self, model: nn.Module) -> Image.Image:
        """Held-out pictures with the nearest of 256 captions, and their own where that is another one."""
        assert isinstance(model, Learner)
        images, texts, (captions, _) = self._embedded(model, HELD_OUT_SCENES)
        likeness = images[0, :SHOWN] @ texts[0].T
        drawn = torch.cat([batch["pictures"][:, 0] for batch in held_out_batches(self._edit, SHOWN, SHOWN)])
        cards = []
        for number, (found, picture) in enumerate(zip(likeness.argmax(dim=1).tolist(), drawn, strict=True)):
            right = captions[found] == captions[number]
            title, colour = ("right", (40, 120, 70)) if right else ("wrong", (170, 50, 50))
            note, aside = f"{likeness[number, found]:.2f}", "" if right else captions[number]
            panels = [Panel(image=picture.numpy())]
            cards.append(Card(title=title, note=note, colour=colour, words=captions[found], aside=aside, panels=panels))
        return card_sheet(cards, columns=3, side=192)

    def load(self, folder: Path) -> None:
        clip = self.model.clip
        fill(clip.text_encoder, folder / "text_encoder")
        clip.vision.load_state_dict(saved(Vision(self.sizes.vision), folder / "vision").clip.state_dict())
        clip.load_state_dict({name: value.float() for name, value in load_file(folder / JUDGE).items()}, strict=False)

    def save(self, model: nn.Module, folder: Path) -> None:
        """In half precision; DINOv2's part of the vision tower stays as it is, and is fresh if there is none."""
        assert isinstance(model, Learner)
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

    def _embedded(self, model: Learner, edits: int) -> tuple[Tensor, Tensor, tuple[list[str], list[str]]]:
        """Pictures and captions of held-out sources and targets: [2, N, W], [2, N, W] and the captions."""
        images, texts = list[Tensor](), list[Tensor]()
        words = list[str](), list[str]()
        for batch in held_out_batches(self._edit, edits, 64):
            count, captions = len(batch["pictures"]), _captions(batch)
            pictures = batch["pictures"].transpose(0, 1).flatten(0, 1).to(model.clip.logit_scale.device)
            images.append(model.clip.pictures(pictures, self.sizes.vision.image_size).unflatten(0, (2, count)))
            ids = self._ids(captions).to(pictures.device)
            texts.append(model.clip.texts(model.clip.read(ids)).unflatten(0, (2, count)))
            words[0].extend(captions[:count])
            words[1].extend(captions[count:])
        return torch.cat(images, dim=1), torch.cat(texts, dim=1), words

    def _ids(self, texts: Sequence[str]) -> Tensor:
        return tokenize_text(self.tokenizer, list(texts), self.sizes.text.tokens)

    def _edit(self, renderer: Renderer, seed: int) -> dict[str, Any]:
        edit = make_edit(TRAIN if seed in TRAIN.seeds else HELD_OUT, seed)
        drawn = [renderer.draw(scene, self.sizes.vision.image_size).image for scene in (edit.source, edit.target)]
        return {
            "pictures": torch.from_numpy(np.stack(drawn)),
            "captions": [language.caption(scene, seed) for scene in (edit.source, edit.target)],
            "instruction": edit.instruction,
            "answers": torch.tensor(asked_of(edit)),
        }


def asked_of(edit: Edit) -> list[int]:
    """The right answer to each of `QUESTIONS` by its number; IGNORED where the words alone do not tell it."""
    words = re.findall(r"\w+", edit.instruction.lower())
    before, after = ([one for one in scene.objects if one.id in edit.edited] for scene in (edit.source, edit.target))
    answers: dict[str, str | None] = {
        "operation": edit.operation,
        "before": _thing(before, edit.instruction),
        "before_color": _color(before, words),
        "after": _thing(after, edit.instruction),
        "after_color": _color(after, words),
        "side": next((word for word in words if word in QUESTIONS["side"]), ""),
        "background": edit.target.background if edit.operation == "background" else "",
        "style": edit.target.effect if edit.operation == "style" else "",
    }
    return [IGNORED if answers[name] is None else known.index(answers[name] or "") for name, known in QUESTIONS.items()]


def contrast(images: Tensor, texts: Tensor, scale: Tensor, alike: Tensor) -> Tensor:
    """CLIP's symmetric cross entropy over a batch of unit vectors [B, W]; `alike` [B, B] says what belongs together."""
    with torch.autocast(images.device.type, enabled=False):  # in bfloat16 the logits would be off by up to 0.4
        logits = scale.float() * images @ texts.T
    shares = alike / alike.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, shares) + F.cross_entropy(logits.T, shares)) / 2


def _captions(batch: Mapping[str, Any]) -> list[str]:
    """Of all sources, then of all targets."""
    sources, targets = batch["captions"]
    return [*sources, *targets]


def _thing(objects: Sequence[Placed], instruction: str) -> str | None:
    """What the edited thing is called, if there is one and the instruction names it or says its use."""
    if len(objects) != 1:
        return None if objects else ""
    thing = objects[0].thing
    return thing.name if thing.name in instruction or (thing.use and thing.use in instruction) else None


def _color(objects: Sequence[Placed], words: Sequence[str]) -> str | None:
    if len(objects) != 1:
        return None if objects else ""
    return objects[0].color if objects[0].color in words else ""
