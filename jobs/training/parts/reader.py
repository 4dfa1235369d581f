"""The scene reader, the judge of edits: trained on renders of all that any split shows, many of them spoiled."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor, nn

from fireedit.jobs.evaluation.cases import Cases, EditCase, families_of
from fireedit.jobs.evaluation.scene_reader import (
    BOX_UNIT,
    Maps,
    SceneReader,
    SceneReaderConfig,
    SceneReading,
    cell_centers,
    iou,
    load_reader,
    save_reader,
    signed,
)
from fireedit.jobs.evaluation.success import COLORLESS, judge
from fireedit.jobs.training.corruption import noisy, speckled, spoiled
from fireedit.jobs.training.held_out import HELD_OUT, held_out_batches
from fireedit.jobs.training.loop import PretrainRecipe
from fireedit.models.model import NANO, FireEditConfig
from fireedit.platform.config import Ratio
from fireedit.platform.scenes import assets
from fireedit.platform.scenes.backgrounds import BACKGROUNDS
from fireedit.platform.scenes.families import NO_OP, make_edit
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.scene import EFFECTS, Scene
from fireedit.platform.scenes.world import TRAIN, World
from fireedit.platform.sheet import Panel, sheet

SHOWN = 12
EFFECT_SHARE = 0.4
"""Share of the pairs whose two pictures get an effect at random: style edits alone would show too few."""
RESIZE_SHARE = 0.3
"""Share of the edits that change a size: the smallest and the largest objects occur in no other family's scenes."""
MOST_IN_A_SCENE = 8
"""Rows of the table of a picture's objects."""
NEAR = 1
"""How many cells from an object's middle still learn what the object is."""
UNTOLD = -100
"""Stands for a class where there is none to learn."""

_EVERYTHING = dataclasses.replace(
    TRAIN, name="everything", things=tuple(THINGS), backgrounds=tuple(BACKGROUNDS), grid=None, barred=()
)
"""Shows all that any split shows, anywhere in the picture, drawn from seeds of training."""
_SECOND_ARTWORK = dataclasses.replace(_EVERYTHING, artwork="noto")


@dataclass(frozen=True, kw_only=True)
class SceneReaderRecipe(PretrainRecipe):
    spoiled_share: Ratio = 0.75
    """Share of the pictures that are learned from as an editor may return them: noisy, speckled, a little soft."""
    held_out: PositiveInt = 256
    """Held-out edits whose source and target are read for the figures."""
    judged: PositiveInt = 40
    """Held-out edits of each family whose true targets are judged."""


class SceneReaderTask:
    """SceneReader on source and target of edits."""

    name = "scene_reader"

    def __init__(self, sizes: FireEditConfig, recipe: SceneReaderRecipe, out: Path = NANO):
        self.recipe, self.side = recipe, sizes.vae.sample_size
        self.worlds = (*4 * (TRAIN,), _EVERYTHING, *((_SECOND_ARTWORK,) if _has_second_artwork() else ()))
        artworks = tuple(dict.fromkeys(world.artwork for world in self.worlds))
        self.model = SceneReader(SceneReaderConfig(artworks=artworks))
        self.config = self.model.config

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Draw source and target of the edit of a seed of training.

        Returns:
            `pictures` uint8 [2, S, S, 3] and what is in them; see `table`.
        """
        rng = random.Random(f"parser {seed}")
        family = "resize" if rng.random() < RESIZE_SHARE else None
        scenes: Sequence[Scene] = _pair(self.worlds[seed % len(self.worlds)], seed, family)
        if rng.random() < EFFECT_SHARE:
            scenes = [dataclasses.replace(scene, effect=rng.choice(EFFECTS)) for scene in scenes]
        drawn = [draw_scene(scene, self.side).image for scene in scenes]
        tables = [table(scene, self.config) for scene in scenes]
        return {
            "pictures": torch.from_numpy(np.stack(drawn)),
            **{name: torch.stack([one[name] for one in tables]) for name in tables[0]},
        }

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tables = {name: value.flatten(0, 1) for name, value in batch.items()}
        pictures = spoiled(signed(tables.pop("pictures")).contiguous(), self.recipe.spoiled_share)
        with _narrow(pictures.device):
            maps: Maps = model(pictures.contiguous(memory_format=torch.channels_last))
        truth = truth_of(tables, maps.objects.shape[-1])
        losses = {
            "found": _peak_loss(maps.objects, truth.heat),
            "box": _box_loss(maps.boxes, truth),
            "name": _told(maps.names, truth.names),
            "color": _told(maps.colors, truth.colors),
            "reflection": _mean_near(
                F.binary_cross_entropy_with_logits(maps.reflections, truth.reflections, reduction="none"), truth.near
            ),
            "background": _told(maps.backgrounds, tables["backgrounds"].long()),
            "effect": _told(maps.effects, tables["effects"].long()),
            "mirror": _peak_loss(maps.mirrors, truth.mirror),
        }
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Measure it on held-out pictures.

        Returns:
            F1 of objects at IoU .5 with their names, shares that are read rightly, and shares of true targets (and
            of mere copies) that are judged successes.
        """
        assert isinstance(model, SceneReader)
        tally = _Tally()
        for batch in held_out_batches(self._plain_pair, self.recipe.held_out, 16):
            scenes = [scene for seed in batch["seed"].tolist() for scene in _pair(HELD_OUT, seed)]
            tally.add(model.read(batch["pictures"].flatten(0, 1).numpy()), scenes)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return tally.figures() | pass_rates(model, self.side, self.recipe.judged) | {"parameters": float(parameters)}

    def preview(self, model: nn.Module) -> Image.Image:
        """Show held-out pictures with the objects that are read in them."""
        assert isinstance(model, SceneReader)
        pictures = torch.cat([batch["pictures"][:, 1] for batch in held_out_batches(self._plain_pair, SHOWN, 1)])
        panels = [
            Panel(
                image=picture,
                title=" ".join(seen.name for seen in reading.objects),
                boxes=[seen.box for seen in reading.objects],
            )
            for picture, reading in zip(pictures.numpy(), model.read(pictures.numpy()), strict=True)
        ]
        return sheet(panels, columns=6, height=192)

    def load(self, folder: Path) -> None:
        self.model.load_state_dict(load_reader(folder).state_dict())

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, SceneReader)
        save_reader(model, folder)

    def _plain_pair(self, seed: int) -> dict[str, Tensor]:
        drawn = [draw_scene(scene, self.side).image for scene in _pair(HELD_OUT, seed)]
        return {"pictures": torch.from_numpy(np.stack(drawn)), "seed": torch.tensor(seed)}


@dataclass(frozen=True)
class Truth:
    """Maps of N pictures as a reader that never errs would give them; h, w are their sides over `STRIDE`."""

    heat: Tensor
    """[N, h, w]: 1 at the middles of objects, less beside them."""
    near: Tensor
    """[N, h, w] bool: cells that learn what their object is."""
    boxes: Tensor
    """[N, h, w, 4] distances as in `Maps`."""
    names: Tensor
    """[N, h, w] classes, or `UNTOLD`."""
    colors: Tensor
    """[N, h, w] classes, or `UNTOLD`."""
    reflections: Tensor
    """[N, h, w] in {0, 1}."""
    mirror: Tensor
    """[N, h, w]: 1 at the middle of the mirror, less beside it."""


def table(scene: Scene, config: SceneReaderConfig) -> dict[str, Tensor]:
    """List a scene's contents in tensors of fixed shapes.

    Returns:
        of its objects `boxes` float32 [M, 4] xyxy, `names` and `colors` int16 [M] (`UNTOLD` where no object is, or
        no color can be told), `reflections` uint8 [M]; of the whole `backgrounds` and `effects` int16 [], and
        `mirrors` float32 [4] xyxy, zeros if there is none.
    """
    colorless = scene.effect in COLORLESS
    rows = [
        (
            placed.box,
            config.names.index(placed.name),
            config.colors.index(placed.looks) if placed.looks and not colorless else UNTOLD,
            int(placed.reflection),
        )
        for placed in scene.objects
    ]
    assert len(rows) <= MOST_IN_A_SCENE, len(rows)
    rows += [((0.0, 0.0, 0.0, 0.0), UNTOLD, UNTOLD, 0)] * (MOST_IN_A_SCENE - len(rows))
    boxes, names, colors, reflections = zip(*rows, strict=True)
    return {
        "boxes": torch.tensor(boxes),
        "names": torch.tensor(names, dtype=torch.int16),
        "colors": torch.tensor(colors, dtype=torch.int16),
        "reflections": torch.tensor(reflections, dtype=torch.uint8),
        "backgrounds": torch.tensor(config.backgrounds.index(scene.background), dtype=torch.int16),
        "effects": torch.tensor(config.effects.index(scene.effect), dtype=torch.int16),
        "mirrors": torch.tensor(scene.mirror.box) if scene.mirror else torch.zeros(4),
    }


def truth_of(tables: Mapping[str, Tensor], cells: int) -> Truth:
    """Turn the tables of N pictures, stacked, into maps of `cells` cells a side, on their device."""
    boxes, there = tables["boxes"], tables["names"] != UNTOLD
    middles = cell_centers(torch.arange(cells * cells, device=boxes.device), cells)
    apart = _apart(middles, boxes, cells)  # [N, M, h w, 2]
    squared = apart.square().sum(dim=-1)
    own = (apart.abs().amax(dim=-1) < NEAR + 0.5) & there[..., None]
    distance, nearest = torch.where(own, squared, torch.inf).min(dim=1)  # [N, h w]
    near, grid = distance.isfinite(), (len(boxes), cells, cells)

    def of_nearest(values: Tensor, fill: int) -> Tensor:
        return torch.where(near, values.gather(1, nearest), fill).view(grid)

    corners = boxes.gather(1, nearest[..., None].expand(-1, -1, 4))
    distances = torch.cat([middles - corners[..., :2], corners[..., 2:] - middles], dim=-1) / BOX_UNIT
    mirrors = tables["mirrors"][:, None]
    mirror = _heat(_apart(middles, mirrors, cells).square().sum(dim=-1), mirrors, cells, mirrors[..., 2] > 0)
    return Truth(
        heat=_heat(squared, boxes, cells, there).view(grid),
        near=near.view(grid),
        boxes=distances.view(*grid, 4),
        names=of_nearest(tables["names"].long(), UNTOLD),
        colors=of_nearest(tables["colors"].long(), UNTOLD),
        reflections=of_nearest(tables["reflections"].float(), 0),
        mirror=mirror.view(grid),
    )


def pass_rates(reader: SceneReader, side: int, count: int) -> dict[str, float]:
    """Judge true targets and copies of the first `count` held-out edits of every family.

    Returns:
        `pass_<family>` and the least of them, on true targets as drawn; `noisy_pass` and `speckled_pass`, means over
        families of spoiled targets, and their least; `copies_pass`, of sources that are taken for edits.
    """
    cases = Cases(side)
    dice = torch.Generator().manual_seed(0)
    passed: dict[str, list[float]] = {"pass": [], "noisy_pass": [], "speckled_pass": []}
    figures, copies = dict[str, float](), list[float]()
    for family in families_of(HELD_OUT.name):
        drawn = cases.of(HELD_OUT.name, family, count)
        targets = torch.from_numpy(np.stack([case.target for case in drawn]))
        kinds = {"pass": targets, "noisy_pass": noisy(targets, dice), "speckled_pass": speckled(targets, dice)}
        for kind, pictures in kinds.items():
            passed[kind].append(_passed(reader, drawn, pictures.numpy()))
        figures[f"pass_{family}"] = passed["pass"][-1]
        if family != NO_OP:
            copies.append(_passed(reader, drawn, np.stack([case.source for case in drawn])))
    for kind, rates in passed.items():
        figures |= {kind: round(sum(rates) / len(rates), 4), f"{kind}_least": min(rates)}
    return figures | {"copies_pass": round(sum(copies) / len(copies), 4)}


def _passed(reader: SceneReader, cases: Sequence[EditCase], edited: np.ndarray) -> float:
    readings = reader.read(edited)
    verdicts = [judge([case.edit], reading) for case, reading in zip(cases, readings, strict=True)]
    return round(sum(verdict.success for verdict in verdicts) / len(verdicts), 4)


class _Tally:
    """Counts the things that are read rightly."""

    def __init__(self) -> None:
        self.right, self.asked = dict[str, float](), dict[str, float]()

    def add(self, readings: list[SceneReading], scenes: list[Scene]) -> None:
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


def _narrow(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where that is faster: on GPUs, and twice as fast on CPUs that multiply such matrices."""
    pays = device.type != "cpu" or bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=pays)


def _apart(middles: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """Vectors from the cells that the middles of boxes [N, M, 4] fall into to all others; [N, M, h w, 2], in cells."""
    middle = (((boxes[..., :2] + boxes[..., 2:]) / 2 * cells).floor().clamp(0, cells - 1) + 0.5) / cells
    return (middles - middle[..., None, :]) * cells


def _heat(squared: Tensor, boxes: Tensor, cells: int, there: Tensor) -> Tensor:
    """Spread 1 from the middles of boxes [N, M, 4], the wider the larger they are; 0 of those not `there`; [N, h w]."""
    spread = ((boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) * cells / 6).clamp(min=0.7)
    return (torch.exp(-squared / (2 * spread[..., None] ** 2)) * there[..., None]).amax(dim=1)


def _pair(world: World, seed: int, family: str | None = None) -> tuple[Scene, Scene]:
    edit = make_edit(world, seed, family)
    return edit.source, edit.target


def _has_second_artwork() -> bool:
    try:
        assets.noto_font()
    except assets.MissingAssetsError:
        return False
    return True


def _peak_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """CenterNet's focal loss: middles should be 1, cells beside them are blamed the less the nearer they lie."""
    score, middle = logits.sigmoid().clamp(1e-4, 1 - 1e-4), heat >= 0.999
    missed = -(1 - score).square() * score.log()
    wrong = -(1 - heat).pow(4) * score.square() * (1 - score).log()
    return torch.where(middle, missed, wrong).sum() / middle.sum().clamp(min=1)


def _box_loss(boxes: Tensor, truth: Truth) -> Tensor:
    """Sum of how far edges are off and of how much of the box is missed: small boxes need the second."""
    inner, outer = torch.minimum(boxes.clamp(min=0), truth.boxes), torch.maximum(boxes.clamp(min=0), truth.boxes)
    apart = (boxes - truth.boxes).abs().mean(dim=-1)
    # Beside an object's middle a true distance can be negative, and then the overlap means nothing.
    inside = (truth.boxes > 0).all(dim=-1)
    areas = [(part[..., 0] + part[..., 2]) * (part[..., 1] + part[..., 3]) for part in (inner, outer)]
    missed = torch.where(inside, 1 - areas[0] / areas[1].clamp(min=1e-3), 0)
    return _mean_near(2 * apart + missed, truth.near)


def _mean_near(values: Tensor, near: Tensor) -> Tensor:
    return (values * near).sum() / near.sum().clamp(min=1)


def _told(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy of [..., C] logits where [...] classes are told; 0 if none is."""
    total = F.cross_entropy(logits.flatten(0, -2), classes.flatten(), ignore_index=UNTOLD, reduction="sum")
    return total / (classes != UNTOLD).sum().clamp(min=1)
