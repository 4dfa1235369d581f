"""The scene parser, the judge of edits: trained on renders of all that any split shows, and on softened ones."""

import dataclasses
import io
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from fireedit.jobs.benchmarking.parser import (
    BOX_UNIT,
    STRIDE,
    Maps,
    ParserConfig,
    Reading,
    SceneParser,
    cell_middles,
    iou,
    load_parser,
    save_parser,
    signed,
)
from fireedit.jobs.benchmarking.success import COLORLESS
from fireedit.jobs.pretraining.loop import PretrainRecipe
from fireedit.jobs.pretraining.scenes import HELD_OUT, held_out_batches, training_batches
from fireedit.models.fireedit import NANO, FireEditConfig
from fireedit.models.vae import EditVAE
from fireedit.platform.data.scenes import assets
from fireedit.platform.data.scenes.backgrounds import BACKGROUNDS
from fireedit.platform.data.scenes.families import make_edit
from fireedit.platform.data.scenes.objects import THINGS
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.scenes.scene import EFFECTS, Scene
from fireedit.platform.data.scenes.world import TRAIN, World
from fireedit.platform.sheet import Panel, sheet

HELD_OUT_SCENES = 384
SHOWN = 12
EFFECT_SHARE = 0.15
"""Of the pairs, whose two pictures get an effect at random: style edits alone would show too few."""
NEAR = 1
"""How many cells from an object's middle still learn what the object is."""
UNTOLD = -100
"""Stands for a class where there is none to learn."""

_EVERYTHING = dataclasses.replace(
    TRAIN, name="everything", things=tuple(THINGS), backgrounds=tuple(BACKGROUNDS), barred=()
)
"""What any split shows, drawn from seeds of training."""
_SECOND_ARTWORK = dataclasses.replace(_EVERYTHING, artwork="noto")


@dataclass(frozen=True, kw_only=True)
class ParserRecipe(PretrainRecipe):
    reconstructed_share: float = 0.5
    """Of the pictures, if there is a VAE yet: they are coded by it and decoded."""
    latent_noise: float = 0.25
    """The most that is laid on their latents, which have unit variance."""


class ParserPart:
    """SceneParser on source and target of edits."""

    name = "parser"

    def __init__(self, sizes: FireEditConfig, recipe: ParserRecipe, out: Path = NANO):
        self.recipe, self.side = recipe, sizes.vae.sample_size
        self.vae = None
        if (out / "vae").is_dir():
            self.vae = EditVAE.from_pretrained(out / "vae", dtype=torch.float32).eval().requires_grad_(False)
        self.worlds = (TRAIN, TRAIN, TRAIN, _EVERYTHING, *((_SECOND_ARTWORK,) if _has_second_artwork() else ()))
        config = ParserConfig(
            artworks=tuple(dict.fromkeys(world.artwork for world in self.worlds)),
            reconstructions=self.vae is not None,
        )
        self.model = SceneParser(config)
        self.config = config

    def batches(self, first: int, last: int) -> Iterable[Mapping[str, Tensor]]:
        assert self.recipe.batch % 2 == 0, self.recipe.batch
        return training_batches(self._softened_pair, first, last, self.recipe.batch // 2, self.recipe.workers)

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        truth = {name: value.flatten(0, 1) for name, value in batch.items()}
        pictures = self._through_vae(_signed(truth["pictures"]))
        maps: Maps = model(pictures)
        count = truth["near"].sum().clamp(min=1)
        near = truth["near"]
        boxes = (maps.boxes[near] - truth["boxes"][near]).abs().mean()
        losses = {
            "found": _peak_loss(maps.objects, truth["heat"]),
            "box": 2 * boxes,
            "name": _told(maps.names[near], truth["names"][near]),
            "color": _told(maps.colors[near], truth["colors"][near]),
            "reflection": F.binary_cross_entropy_with_logits(
                maps.reflections[near], truth["reflections"][near], reduction="sum"
            )
            / count,
            "background": _told(maps.backgrounds, truth["background"]),
            "effect": _told(maps.effects, truth["effect"]),
            "mirror": _peak_loss(maps.mirrors, truth["mirror"]),
        }
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def figures(self, model: nn.Module) -> dict[str, float]:
        """On held-out pictures: F1 of objects at IoU .5 with their names, and shares that are read rightly."""
        assert isinstance(model, SceneParser)
        figures = _Tally()
        softened = _Tally()
        for batch in held_out_batches(self._plain_pair, HELD_OUT_SCENES, 16):
            pictures = _signed(batch["pictures"].flatten(0, 1))
            scenes = [scene for seed in batch["seed"].tolist() for scene in _pair(HELD_OUT, seed)]
            figures.add(model.readings(model(pictures)), scenes)
            if self.vae is not None:
                softened.add(model.readings(model(_reconstructed(self.vae, pictures, 0.0))), scenes)
        report = figures.figures()
        if self.vae is not None:
            report |= {f"reconstructed_{name}": value for name, value in softened.figures().items()}
        return report | {"parameters": float(sum(parameter.numel() for parameter in model.parameters()))}

    def look(self, model: nn.Module) -> Image.Image:
        """Held-out pictures with the objects that are read in them."""
        assert isinstance(model, SceneParser)
        pictures = torch.cat([batch["pictures"][:, 1] for batch in held_out_batches(self._plain_pair, SHOWN, 1)])
        readings = model.readings(model(_signed(pictures)))
        panels = [
            Panel(
                image=picture.numpy(),
                title=" ".join(seen.name for seen in reading.objects),
                boxes=[seen.box for seen in reading.objects],
            )
            for picture, reading in zip(pictures, readings, strict=True)
        ]
        return sheet(panels, columns=6, height=192)

    def load(self, folder: Path) -> None:
        self.model.load_state_dict(load_parser(folder).state_dict())

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, SceneParser)
        save_parser(model, folder)

    def _through_vae(self, pictures: Tensor) -> Tensor:
        """The pictures, some of them as the VAE decodes them from latents with a little noise."""
        count = round(self.recipe.reconstructed_share * len(pictures))
        if self.vae is None or count == 0:
            return pictures
        self.vae.to(pictures.device)
        chosen = torch.randperm(len(pictures), device=pictures.device)[:count]
        with torch.no_grad():
            pictures[chosen] = _reconstructed(self.vae, pictures[chosen], self.recipe.latent_noise).to(pictures.dtype)
        return pictures

    def _softened_pair(self, renderer: Renderer, seed: int) -> dict[str, Tensor]:
        """Source and target of a seed of training, each spoiled a little, and all that there is to learn of them."""
        rng = random.Random(f"parser {seed}")
        scenes: Sequence[Scene] = _pair(self.worlds[seed % len(self.worlds)], seed)
        if rng.random() < EFFECT_SHARE:
            scenes = [dataclasses.replace(scene, effect=rng.choice(EFFECTS)) for scene in scenes]
        drawn = [_spoiled(renderer.draw(scene, self.side).image, rng) for scene in scenes]
        truths = [self._truth(scene) for scene in scenes]
        truth = {name: torch.stack([one[name] for one in truths]) for name in truths[0]}
        return {"pictures": torch.from_numpy(np.stack(drawn)), **truth}

    def _plain_pair(self, renderer: Renderer, seed: int) -> dict[str, Tensor]:
        drawn = [renderer.draw(scene, self.side).image for scene in _pair(HELD_OUT, seed)]
        return {"pictures": torch.from_numpy(np.stack(drawn)), "seed": torch.tensor(seed)}

    def _truth(self, scene: Scene) -> dict[str, Tensor]:
        """What the maps of a scene should say; see `Maps`."""
        config, cells = self.config, self.side // STRIDE
        middles = cell_middles(torch.arange(cells * cells), cells)
        heat, nearest = torch.zeros(cells * cells), torch.full((cells * cells,), torch.inf)
        boxes, reflections = torch.zeros(cells * cells, 4), torch.zeros(cells * cells)
        names, colors = (torch.full((cells * cells,), UNTOLD) for _ in range(2))
        for placed in scene.objects:
            box = torch.tensor(placed.box)
            apart = _apart(middles, box)
            squared = apart.square().sum(dim=1)
            heat = torch.maximum(heat, _heat(apart, box))
            own = (apart.abs().amax(dim=1) < NEAR + 0.5) & (squared < nearest)
            nearest = torch.where(own, squared, nearest)
            boxes[own] = (torch.cat([middles - box[:2], box[2:] - middles], dim=1) / BOX_UNIT)[own]
            names[own] = config.names.index(placed.name)
            colored = placed.looks and scene.effect not in COLORLESS
            colors[own] = config.colors.index(placed.looks) if colored else UNTOLD
            reflections[own] = float(placed.reflection)
        mirror, grid = torch.zeros(cells * cells), (cells, cells)
        if scene.mirror is not None:
            box = torch.tensor(scene.mirror.box)
            mirror = _heat(_apart(middles, box), box)
        return {
            "heat": heat.view(grid),
            "near": nearest.isfinite().view(grid),
            "boxes": boxes.view(*grid, 4),
            "names": names.view(grid),
            "colors": colors.view(grid),
            "reflections": reflections.view(grid),
            "background": torch.tensor(config.backgrounds.index(scene.background)),
            "effect": torch.tensor(config.effects.index(scene.effect)),
            "mirror": mirror.view(grid),
        }


class _Tally:
    """Counts what is read rightly."""

    def __init__(self) -> None:
        self.right, self.asked = dict[str, float](), dict[str, float]()

    def add(self, readings: list[Reading], scenes: list[Scene]) -> None:
        for reading, scene in zip(readings, scenes, strict=True):
            self._count("background", reading.background == scene.background)
            self._count("effect", reading.effect == scene.effect)
            self._count("mirror", (reading.mirror is None) == (scene.mirror is None))
            found = 0
            for placed in scene.objects:
                fitting = [seen for seen in reading.objects if iou(seen.box, placed.box) >= 0.5]
                named = [seen for seen in fitting if seen.name == placed.name]
                found += bool(named)
                self._count("name", bool(named)) if fitting else None
                if named and placed.looks and scene.effect not in COLORLESS:
                    self._count("color", named[0].color == placed.looks)
                if named and scene.mirror is not None:
                    self._count("reflection", named[0].reflection == placed.reflection)
            # F1 = 2 found / (objects there + objects read)
            self.right["f1"] = self.right.get("f1", 0) + 2 * found
            self.asked["f1"] = self.asked.get("f1", 0) + len(scene.objects) + len(reading.objects)

    def _count(self, what: str, right: bool) -> None:
        self.right[what] = self.right.get(what, 0) + right
        self.asked[what] = self.asked.get(what, 0) + 1

    def figures(self) -> dict[str, float]:
        return {what: round(self.right[what] / max(self.asked[what], 1), 4) for what in sorted(self.asked)}


def _apart(middles: Tensor, box: Tensor) -> Tensor:
    """How far the middles of all cells [N, 2] lie from that of the cell that a box's middle falls into, in cells."""
    cells = math.isqrt(len(middles))
    middle = (((box[:2] + box[2:]) / 2 * cells).floor().clamp(0, cells - 1) + 0.5) / cells
    return (middles - middle) * cells


def _heat(apart: Tensor, box: Tensor) -> Tensor:
    """1 at the middle of a box and less around, the wider the larger it is; [N]."""
    spread = max(0.7, float((box[2:] - box[:2]).min()) * math.isqrt(len(apart)) / 6)
    return torch.exp(-apart.square().sum(dim=1) / (2 * spread**2))


def _pair(world: World, seed: int) -> tuple[Scene, Scene]:
    edit = make_edit(world, seed)
    return edit.source, edit.target


def _has_second_artwork() -> bool:
    try:
        assets.noto_font()
    except assets.MissingAssetsError:
        return False
    return True


def _spoiled(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """A picture as it may come back from an editor: softer, noisier, its colours a little off."""
    picture = Image.fromarray(image)
    match rng.randrange(4):
        case 0:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
        case 1:
            buffer = io.BytesIO()
            picture.save(buffer, "jpeg", quality=rng.randrange(50, 95))
            picture = Image.open(buffer)
        case 2:
            small = round(picture.width * rng.uniform(0.75, 0.95))
            picture = picture.resize((small, small), Image.Resampling.BILINEAR).resize(picture.size)
    pixels = np.asarray(picture, np.float32)
    if rng.random() < 0.5:
        noise = np.random.default_rng(rng.randrange(1 << 30)).standard_normal(pixels.shape, np.float32)
        gains = np.array([rng.uniform(0.94, 1.06) for _ in range(3)], np.float32)
        pixels = pixels * gains + rng.uniform(0, 6) * noise
    return pixels.clip(0, 255).astype(np.uint8)


def _reconstructed(vae: Any, pictures: Tensor, noise: float) -> Tensor:
    latents = vae.encode(pictures).latent_dist.mode()
    amounts = torch.rand(len(latents), 1, 1, 1, device=latents.device) * noise / vae.config.scaling_factor
    return vae.decode(latents + amounts * torch.randn_like(latents)).sample.clamp(-1, 1)


def _signed(pictures: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] to [B, 3, S, S] in [-1, 1]."""
    return signed(pictures).contiguous(memory_format=torch.channels_last)


def _peak_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """CenterNet's focal loss: middles should be 1, cells beside them are blamed the less the nearer they lie."""
    score, middle = logits.sigmoid().clamp(1e-4, 1 - 1e-4), heat >= 0.999
    missed = -(1 - score).square() * score.log()
    wrong = -(1 - heat).pow(4) * score.square() * (1 - score).log()
    return torch.where(middle, missed, wrong).sum() / middle.sum().clamp(min=1)


def _told(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy of those that have a class; 0 if none has."""
    known = classes != UNTOLD
    return F.cross_entropy(logits, classes, ignore_index=UNTOLD, reduction="sum") / known.sum().clamp(min=1)
