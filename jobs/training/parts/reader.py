"""The scene reader, the judge of edits, trained on scenes of every split, many of them corrupted."""

import contextlib
import dataclasses
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor
from torch.utils.data import default_collate

from fireedit.jobs.evaluation.cases import Cases, EditCase, families_of, stacked
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
from fireedit.jobs.evaluation.success import COLORLESS, verdicts
from fireedit.jobs.training.corruption import corrupted, noisy, speckled
from fireedit.jobs.training.held_out import HELD_OUT, SHOWN, held_out_batches, known_cross_entropy
from fireedit.jobs.training.pretraining import PretrainRecipe
from fireedit.models.model import NANO, FireEditConfig
from fireedit.models.tokens import IGNORED
from fireedit.platform.config import Ratio
from fireedit.platform.scenes import assets
from fireedit.platform.scenes.backgrounds import BACKGROUNDS
from fireedit.platform.scenes.families import NO_OP, make_edit
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.scene import EFFECTS, Scene
from fireedit.platform.scenes.world import TRAIN, World
from fireedit.platform.sheet import Panel, sheet

EFFECT_SHARE = 0.4
"""Share of the pairs that get a random effect: style edits alone would contain too few."""
RESIZE_SHARE = 0.3
"""Share of resize edits: only their scenes contain the smallest and the largest objects."""
MAX_OBJECTS = 8
"""Rows of the table of an image's objects."""
NEAR = 1
"""Distance, in cells, from an object's center up to which cells predict the object."""

_EVERYTHING = dataclasses.replace(
    TRAIN, name="everything", things=tuple(THINGS), backgrounds=tuple(BACKGROUNDS), grid=None, barred=()
)
"""World with the things and backgrounds of every split, anywhere in the image, on seeds of training."""
_SECOND_ARTWORK = dataclasses.replace(_EVERYTHING, artwork="noto")


@dataclass(frozen=True, kw_only=True)
class SceneReaderRecipe(PretrainRecipe):
    spoiled_share: Ratio = 0.75
    """Share of the images that are corrupted as an editor may: noisy, speckled, slightly blurred."""
    held_out: PositiveInt = 256
    """Held-out edits whose source and target are read for the figures."""
    judged: PositiveInt = 40
    """Held-out edits of each family whose true targets are judged for the figures."""


class SceneReaderTask:
    """SceneReader, trained on sources and targets of edits."""

    name = "scene_reader"

    def __init__(self, sizes: FireEditConfig, recipe: SceneReaderRecipe, out: Path = NANO):
        self.recipe, self.side = recipe, sizes.vae.sample_size
        self.worlds = [*4 * [TRAIN], _EVERYTHING]
        with contextlib.suppress(assets.MissingAssetsError):
            assets.noto_font()
            self.worlds.append(_SECOND_ARTWORK)
        artworks = tuple(dict.fromkeys(world.artwork for world in self.worlds))
        self.model = SceneReader(SceneReaderConfig(artworks=artworks))
        self.config = self.model.config

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Draw source and target of the edit of a seed of training.

        Returns:
            pictures: uint8 [2, S, S, 3]; and their tables, stacked: see `table`.
        """
        rng = random.Random(f"parser {seed}")
        family = "resize" if rng.random() < RESIZE_SHARE else None
        scenes: Sequence[Scene] = scenes_of(self.worlds[seed % len(self.worlds)], seed, family)
        if rng.random() < EFFECT_SHARE:
            scenes = [dataclasses.replace(scene, effect=rng.choice(EFFECTS)) for scene in scenes]
        images = [draw_scene(scene, self.side).image for scene in scenes]
        tables = default_collate([table(scene, self.config) for scene in scenes])
        return {"pictures": torch.from_numpy(np.stack(images)), **tables}

    def losses(self, model: SceneReader, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tables = {name: value.flatten(0, 1) for name, value in batch.items()}
        pictures = corrupted(signed(tables.pop("pictures")).contiguous(), self.recipe.spoiled_share)
        with _autocast(pictures.device):
            maps: Maps = model(pictures.contiguous(memory_format=torch.channels_last))
        truth = truth_of(tables, maps.objects.shape[-1])
        reflections = F.binary_cross_entropy_with_logits(maps.reflections, truth.reflections, reduction="none")
        losses = {
            "found": center_loss(maps.objects, truth.heat),
            "box": box_loss(maps.boxes, truth),
            "name": known_cross_entropy(maps.names, truth.names),
            "color": known_cross_entropy(maps.colors, truth.colors),
            "reflection": _mean_over(reflections, truth.near),
            "background": known_cross_entropy(maps.backgrounds, tables["backgrounds"].long()),
            "effect": known_cross_entropy(maps.effects, tables["effects"].long()),
            "mirror": center_loss(maps.mirrors, truth.mirror),
        }
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def figures(self, model: SceneReader) -> dict[str, float]:
        """Compute the F1 of objects at IoU .5 with their names, accuracies, and pass rates on held-out edits."""
        readings, scenes = list[SceneReading](), list[Scene]()
        for batch in held_out_batches(self._draw_held_out, self.recipe.held_out, 16):
            scenes += [scene for seed in batch["seed"].tolist() for scene in scenes_of(HELD_OUT, seed)]
            readings += model.read(batch["pictures"].flatten(0, 1).numpy())
        parameters = sum(parameter.numel() for parameter in model.parameters())
        rates = pass_rates(model, self.side, self.recipe.judged)
        return reading_figures(readings, scenes) | rates | {"parameters": float(parameters)}

    def preview(self, model: SceneReader) -> Image.Image:
        """Draw held-out targets with the objects that are read in them."""
        targets = [batch["pictures"][:, 1] for batch in held_out_batches(self._draw_held_out, SHOWN, 1)]
        images = torch.cat(targets).numpy()
        panels = [
            Panel(
                image=image,
                title=" ".join(detected.name for detected in reading.objects),
                boxes=[detected.box for detected in reading.objects],
            )
            for image, reading in zip(images, model.read(images), strict=True)
        ]
        return sheet(panels, columns=6, height=192)

    def load(self, folder: Path) -> None:
        self.model.load_state_dict(load_reader(folder).state_dict())

    def save(self, model: SceneReader, folder: Path) -> None:
        save_reader(model, folder)

    def _draw_held_out(self, seed: int) -> dict[str, Tensor]:
        images = [draw_scene(scene, self.side).image for scene in scenes_of(HELD_OUT, seed)]
        return {"pictures": torch.from_numpy(np.stack(images)), "seed": torch.tensor(seed)}


@dataclass(frozen=True)
class Truth:
    """Target maps of N images; h, w are their sides over `STRIDE`."""

    heat: Tensor
    """[N, h, w]: 1 at the centers of objects, less around them."""
    near: Tensor
    """[N, h, w] bool: cells that predict the object near them."""
    boxes: Tensor
    """[N, h, w, 4] distances as in `Maps`."""
    names: Tensor
    """[N, h, w] classes, or `IGNORED`."""
    colors: Tensor
    """[N, h, w] classes, or `IGNORED`."""
    reflections: Tensor
    """[N, h, w] in {0, 1}."""
    mirror: Tensor
    """[N, h, w]: 1 at the center of the mirror, less around it."""


def table(scene: Scene, config: SceneReaderConfig) -> dict[str, Tensor]:
    """List a scene's contents in tensors of fixed shapes.

    Returns:
        boxes: float32 [M, 4] xyxy in [0, 1]. names, colors: int16 [M], IGNORED for padding and for colors that are not
        visible. reflections: uint8 [M]. backgrounds, effects: int16 []. mirrors: float32 [4] xyxy, zeros without one.
    """
    count = len(scene.objects)
    assert count <= MAX_OBJECTS, count
    boxes, reflections = torch.zeros(MAX_OBJECTS, 4), torch.zeros(MAX_OBJECTS, dtype=torch.uint8)
    names, colors = (torch.full((MAX_OBJECTS,), IGNORED, dtype=torch.int16) for _ in range(2))
    for row, placed in enumerate(scene.objects):
        boxes[row], reflections[row] = torch.tensor(placed.box), int(placed.reflection)
        names[row] = config.names.index(placed.name)
        if placed.looks and scene.effect not in COLORLESS:
            colors[row] = config.colors.index(placed.looks)
    return {
        "boxes": boxes,
        "names": names,
        "colors": colors,
        "reflections": reflections,
        "backgrounds": torch.tensor(config.backgrounds.index(scene.background), dtype=torch.int16),
        "effects": torch.tensor(config.effects.index(scene.effect), dtype=torch.int16),
        "mirrors": torch.tensor(scene.mirror.box) if scene.mirror else torch.zeros(4),
    }


def truth_of(tables: Mapping[str, Tensor], cells: int) -> Truth:
    """Turn the stacked tables of N images into maps of `cells` cells a side, on their device."""
    boxes, is_object = tables["boxes"], tables["names"] != IGNORED
    centers = cell_centers(torch.arange(cells * cells, device=boxes.device), cells)
    offsets = _offsets(centers, boxes, cells)  # [N, M, h w, 2]
    squared = offsets.square().sum(dim=-1)
    own = (offsets.abs().amax(dim=-1) < NEAR + 0.5) & is_object[..., None]
    distance, nearest = torch.where(own, squared, torch.inf).min(dim=1)  # [N, h w]
    near, grid = distance.isfinite(), (len(boxes), cells, cells)
    names, colors = (
        torch.where(near, tables[name].long().gather(1, nearest), IGNORED).view(grid) for name in ("names", "colors")
    )
    reflections = torch.where(near, tables["reflections"].float().gather(1, nearest), 0).view(grid)
    corners = boxes.gather(1, nearest[..., None].expand(-1, -1, 4))
    distances = torch.cat([centers - corners[..., :2], corners[..., 2:] - centers], dim=-1) / BOX_UNIT
    mirrors = tables["mirrors"][:, None]
    mirror = _heatmap(_offsets(centers, mirrors, cells).square().sum(dim=-1), mirrors, cells, mirrors[..., 2] > 0)
    return Truth(
        heat=_heatmap(squared, boxes, cells, is_object).view(grid),
        near=near.view(grid),
        boxes=distances.view(*grid, 4),
        names=names,
        colors=colors,
        reflections=reflections,
        mirror=mirror.view(grid),
    )


def pass_rates(reader: SceneReader, side: int, count: int) -> dict[str, float]:
    """Judge true targets and copies of the first `count` held-out edits of every family.

    Returns:
        pass_FAMILY: share of true targets judged as successes. pass, noisy_pass, speckled_pass: means over families of
        the same, also with corrupted targets, and their minima ..._least. copies_pass: share of sources judged as
        successes.
    """
    cases, generator = Cases(side), torch.Generator().manual_seed(0)
    rates: dict[str, list[float]] = {"pass": [], "noisy_pass": [], "speckled_pass": []}
    figures, copies = dict[str, float](), list[float]()
    for family in families_of(HELD_OUT.name):
        held_out = cases.of(HELD_OUT.name, family, count)
        targets = torch.from_numpy(stacked(held_out, "target"))
        versions = (targets, noisy(targets, generator), speckled(targets, generator))
        for kind, images in zip(rates, versions, strict=True):
            rates[kind].append(_pass_rate(reader, held_out, images.numpy()))
        figures[f"pass_{family}"] = rates["pass"][-1]
        if family != NO_OP:
            copies.append(_pass_rate(reader, held_out, stacked(held_out, "source")))
    for kind, values in rates.items():
        figures |= {kind: round(sum(values) / len(values), 4), f"{kind}_least": min(values)}
    return figures | {"copies_pass": round(sum(copies) / len(copies), 4)}


def _pass_rate(reader: SceneReader, cases: Sequence[EditCase], edited: np.ndarray) -> float:
    """Share of edited images, uint8 [N, S, S, 3], judged as successes."""
    passed = [not wrong for wrong in verdicts(cases, reader.read(edited))]
    return round(sum(passed) / len(passed), 4)


def reading_figures(readings: Sequence[SceneReading], scenes: Sequence[Scene]) -> dict[str, float]:
    """Compute the shares of backgrounds, effects and mirrors read correctly, and the F1 of objects with their names.

    `name`: shares of the objects detected at IoU .5; `color`, `reflection`: of those with the right name.
    """
    hits, named_count, count = defaultdict[str, list[bool]](list), 0, 0
    for reading, scene in zip(readings, scenes, strict=True):
        hits["background"].append(reading.background == scene.background)
        hits["effect"].append(reading.effect == scene.effect)
        hits["mirror"].append((reading.mirror is None) == (scene.mirror is None))
        for placed in scene.objects:
            overlapping = [detected for detected in reading.objects if iou(detected.box, placed.box) >= 0.5]
            named = [detected for detected in overlapping if detected.name == placed.name]
            named_count += bool(named)
            if overlapping:
                hits["name"].append(bool(named))
            if named and placed.looks and scene.effect not in COLORLESS:
                hits["color"].append(named[0].color == placed.looks)
            if named and scene.mirror is not None:
                hits["reflection"].append(named[0].reflection == placed.reflection)
        count += len(scene.objects) + len(reading.objects)
    shares = {kind: sum(values) / len(values) for kind, values in hits.items()} | {"f1": 2 * named_count / count}
    return {kind: round(share, 4) for kind, share in sorted(shares.items())}


def scenes_of(world: World, seed: int, family: str | None = None) -> tuple[Scene, Scene]:
    """Source and target of an edit."""
    edit = make_edit(world, seed, family)
    return edit.source, edit.target


def _autocast(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where that is faster: on GPUs, and on CPUs with AMX."""
    pays = device.type != "cpu" or bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=pays)


def _offsets(centers: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """Vectors from the cells at the centers of boxes [N, M, 4] to all cells; [N, M, h w, 2], in cells."""
    box_centers = (((boxes[..., :2] + boxes[..., 2:]) / 2 * cells).floor().clamp(0, cells - 1) + 0.5) / cells
    return (centers - box_centers[..., None, :]) * cells


def _heatmap(squared: Tensor, boxes: Tensor, cells: int, is_object: Tensor) -> Tensor:
    """Gaussians of height 1 at the centers of boxes [N, M, 4], wider for larger boxes, 0 for padding; [N, h w]."""
    spread = ((boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) * cells / 6).clamp(min=0.7)
    return (torch.exp(-squared / (2 * spread[..., None] ** 2)) * is_object[..., None]).amax(dim=1)


def center_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """CenterNet's focal loss: centers should be 1; other cells are penalized less near a center."""
    score, center = logits.sigmoid().clamp(1e-4, 1 - 1e-4), heat >= 0.999
    missed = -(1 - score).square() * score.log()
    wrong = -(1 - heat).pow(4) * score.square() * (1 - score).log()
    return torch.where(center, missed, wrong).sum() / center.sum().clamp(min=1)


def box_loss(boxes: Tensor, truth: Truth) -> Tensor:
    """Sum of the L1 distance of edges and of 1 - IoU, which small boxes need."""
    inner, outer = torch.minimum(boxes.clamp(min=0), truth.boxes), torch.maximum(boxes.clamp(min=0), truth.boxes)
    distance = (boxes - truth.boxes).abs().mean(dim=-1)
    # Outside of an object a true distance can be negative, and then the IoU is undefined.
    inside = (truth.boxes > 0).all(dim=-1)
    areas = [(edges[..., 0] + edges[..., 2]) * (edges[..., 1] + edges[..., 3]) for edges in (inner, outer)]
    missed = torch.where(inside, 1 - areas[0] / areas[1].clamp(min=1e-3), 0)
    return _mean_over(2 * distance + missed, truth.near)


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)
