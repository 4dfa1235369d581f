"""The scene reader: reads a picture as a scene, so that an edit can be judged by what it shows.

It is a judge and no part of the editor, so it may know what the editor has never seen; its config says what it knows.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fireedit.models.layers.boxes import nms
from fireedit.platform.scenes.backgrounds import BACKGROUNDS
from fireedit.platform.scenes.objects import COLORS, THINGS
from fireedit.platform.scenes.scene import EFFECTS, MIRROR_SIZE, Box

STRIDE = 4
"""Pixels a cell of the map in which objects are found."""
BOX_UNIT = 0.1
"""Of the side: what the network says of edges is told in it."""
MOST_OBJECTS = 12
LEAST_SCORE = 0.4
"""From here on a peak is an object."""
DOUBLE_IOU = 0.6
"""From here on two peaks are one object."""
FOLDER, WEIGHTS, CONFIG = "judges", "scene_reader.safetensors", "scene_reader.json"


@dataclass(frozen=True, kw_only=True)
class SceneReaderConfig:
    widths: tuple[int, ...] = (32, 96, 120)
    """Channels at half, a quarter, ... of the picture's side."""
    depths: tuple[int, ...] = (1, 2, 2)
    """Blocks at each of these on the way down; the way up has half as many, at least one."""
    groups: int = 8
    """Groups of channels that are normalized together."""
    names: tuple[str, ...] = tuple(THINGS)
    colors: tuple[str, ...] = tuple(COLORS)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    effects: tuple[str, ...] = ("", *EFFECTS)
    artworks: tuple[str, ...] = ()
    """Artworks it was trained on."""


@dataclass(frozen=True)
class Seen:
    """An object that was read."""

    name: str
    box: Box
    color: str
    """The likeliest, also of a thing that has no colour one could name."""
    reflection: bool
    score: float

    @property
    def middle(self) -> float:
        return (self.box[0] + self.box[2]) / 2


@dataclass(frozen=True)
class Reading:
    """A picture as the reader sees it."""

    objects: tuple[Seen, ...]
    background: str
    effect: str
    mirror: tuple[float, float] | None
    """x of its middle and y of its lower edge, as in a scene."""


@dataclass(frozen=True)
class Maps:
    """What the network says of B pictures; h, w are their sides over `STRIDE`."""

    objects: Tensor
    """[B, h, w] logits: whether the middle of an object lies there."""
    boxes: Tensor
    """[B, h, w, 4] distances from the cell's middle to left, top, right and bottom, in `BOX_UNIT`s."""
    names: Tensor
    """[B, h, w, names] logits."""
    colors: Tensor
    """[B, h, w, colors] logits."""
    reflections: Tensor
    """[B, h, w] logits."""
    backgrounds: Tensor
    """[B, backgrounds] logits."""
    effects: Tensor
    """[B, effects] logits."""
    mirrors: Tensor
    """[B, h, w] logits: whether the middle of the mirror lies there."""

    def cpu(self) -> "Maps":
        """The same maps in the processor's memory, as float32."""
        return Maps(**{name: value.float().cpu() for name, value in vars(self).items()})


class SceneReader(nn.Module):
    """A U of convolutions, a head that finds objects by their middles, and one that sees the picture as a whole.

    Patches of 4x4 pixels enter where objects are found, undiminished; the finer level sees texture: blur, pixel art.
    Source: CenterNet (arXiv 1904.07850) for the heads, though one map finds the things of all names.
    """

    def __init__(self, config: SceneReaderConfig):
        super().__init__()
        self.config = config
        widths, depths, groups = config.widths, config.depths, config.groups
        self.stem = nn.Conv2d(3, widths[0], 2, stride=2)
        self.patches = nn.Conv2d(3, widths[1], STRIDE, stride=STRIDE)
        self.downs = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.blocks = nn.ModuleList(_blocks(width, depth, groups) for width, depth in zip(widths, depths, strict=False))
        self.ups = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for fine, coarse in zip(widths[1:], widths[2:], strict=False)
        )
        self.merged = nn.ModuleList(
            _blocks(width, max(depth // 2, 1), groups) for width, depth in zip(widths[1:-1], depths[1:-1], strict=False)
        )
        self.shared = nn.Sequential(nn.GroupNorm(groups, widths[1]), nn.SiLU())
        self.sizes = (1, 4, len(config.names), len(config.colors), 1, 1)
        self.objects = nn.Conv2d(widths[1], sum(self.sizes), 1)
        self.whole = nn.Sequential(
            nn.LayerNorm(2 * sum(widths)),
            nn.Linear(2 * sum(widths), 96),
            nn.SiLU(),
            nn.Linear(96, len(config.backgrounds) + len(config.effects)),
        )
        assert self.objects.bias is not None
        nn.init.constant_(self.objects.bias[:1], -3.0)  # nearly all cells are empty
        nn.init.constant_(self.objects.bias[-1:], -3.0)

    def forward(self, pictures: Tensor) -> Maps:
        """Read `pictures`, [B, 3, S, S] in [-1, 1]."""
        levels = self.features(pictures)
        x = levels[-1]
        for up, merge, fine in reversed(list(zip(self.ups, self.merged, levels[1:-1], strict=True))):
            x = merge(fine + F.interpolate(up(x), scale_factor=2.0, mode="nearest"))
        found = self.objects(self.shared(x)).permute(0, 2, 3, 1).float()
        objects, boxes, names, colors, reflections, mirrors = found.split(self.sizes, dim=-1)
        whole = self.whole(torch.cat([part for level in levels for part in _statistics(level)], dim=1))
        backgrounds, effects = whole.float().split((len(self.config.backgrounds), len(self.config.effects)), dim=1)
        return Maps(
            objects=objects.squeeze(-1),
            boxes=boxes,
            names=names,
            colors=colors,
            reflections=reflections.squeeze(-1),
            backgrounds=backgrounds,
            effects=effects,
            mirrors=mirrors.squeeze(-1),
        )

    def features(self, pictures: Tensor) -> list[Tensor]:
        """The trunk's maps, fine to coarse, each [B, C_l, h_l, w_l]."""
        x = self.blocks[0](self.stem(pictures))
        levels = [x]
        for index, (down, block) in enumerate(zip(self.downs, self.blocks[1:], strict=True)):
            x = down(x) + self.patches(pictures) if index == 0 else down(x)
            x = block(x)
            levels.append(x)
        return levels

    @torch.no_grad()
    def read(self, pictures: np.ndarray) -> list[Reading]:
        """Read uint8 RGB [B, S, S, 3], on the device of the weights."""
        return self.readings(self(signed(torch.from_numpy(pictures).to(next(self.parameters()).device))))

    def readings(self, maps: Maps) -> list[Reading]:
        """Turn maps into scenes: peaks are objects."""
        maps = maps.cpu()
        scores = maps.objects.sigmoid()
        highest = F.max_pool2d(scores[:, None], 3, stride=1, padding=1)[:, 0]
        scores = torch.where(scores == highest, scores, 0)
        return [self._reading(maps, scores[index], index) for index in range(len(scores))]

    def _reading(self, maps: Maps, peaks: Tensor, index: int) -> Reading:
        mirrors = maps.mirrors[index].sigmoid().flatten()
        x, y = cell_middles(mirrors.argmax(), maps.mirrors.shape[-1]).tolist()
        return Reading(
            objects=self._objects(maps, peaks, index),
            background=self.config.backgrounds[int(maps.backgrounds[index].argmax())],
            effect=self.config.effects[int(maps.effects[index].argmax())],
            mirror=(x, y + MIRROR_SIZE[1] / 2) if mirrors.max() >= LEAST_SCORE else None,
        )

    def _objects(self, maps: Maps, peaks: Tensor, index: int) -> tuple[Seen, ...]:
        """Of one picture, surest first; `peaks` [h, w] are its scores, 0 beside them."""
        scores, places = peaks.flatten().topk(MOST_OBJECTS)
        places = places[scores >= LEAST_SCORE]
        boxes = _placed(maps.boxes[index].flatten(0, 1)[places], places, peaks.shape[1])
        found = []
        for kept in nms(boxes, scores[: len(places)], DOUBLE_IOU).tolist():
            row, column = divmod(int(places[kept]), peaks.shape[1])
            left, top, right, bottom = boxes[kept].tolist()
            found.append(
                Seen(
                    name=self.config.names[int(maps.names[index, row, column].argmax())],
                    box=(left, top, right, bottom),
                    color=self.config.colors[int(maps.colors[index, row, column].argmax())],
                    reflection=bool(maps.reflections[index, row, column] > 0),
                    score=float(scores[kept]),
                )
            )
        return tuple(found)


class _Block(nn.Module):
    """Two convolutions beside a shortcut; starts as the shortcut alone."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        for parameter in self.convs[1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.convs
        return x + second(F.silu(first(F.silu(self.norm(x)))))


def _blocks(width: int, depth: int, groups: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width, groups) for _ in range(depth)))


def _statistics(level: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the cells of [B, C, h, w], each [B, C]."""
    level = level.float()
    mean = level.mean(dim=(2, 3))
    variance = level.square().mean(dim=(2, 3)) - mean.square()
    return mean, variance.clamp(min=1e-6).sqrt()


def signed(pictures: Tensor) -> Tensor:
    """uint8 RGB [B, S, S, 3] to [B, 3, S, S] in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def save_reader(reader: SceneReader, folder: Path) -> None:
    """Write it to the judges among the parts in `folder`, in half precision."""
    judges = folder / FOLDER
    judges.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().cpu().contiguous() for name, tensor in reader.state_dict().items()}
    save_file(state, judges / WEIGHTS)
    (judges / CONFIG).write_text(json.dumps(asdict(reader.config), indent=1) + "\n")


def load_reader(folder: Path) -> SceneReader:
    """The reader among the parts in `folder`.

    Raises:
        FileNotFoundError: there is none.
    """
    judges = folder / FOLDER
    if not (judges / WEIGHTS).is_file():
        raise FileNotFoundError(f"{judges / WEIGHTS} is missing; run: jobs/pretrain.py scene_reader --out {folder}")
    reader = SceneReader(TypeAdapter(SceneReaderConfig).validate_json((judges / CONFIG).read_bytes()))
    reader.load_state_dict({name: tensor.float() for name, tensor in load_file(judges / WEIGHTS).items()})
    return reader.eval().requires_grad_(False)


def cell_middles(places: Tensor, columns: int) -> Tensor:
    """[...] flat places in a square map of so many columns to [..., 2], x and y in [0, 1]."""
    return (torch.stack([places % columns, places // columns], dim=-1) + 0.5) / columns


def _placed(distances: Tensor, places: Tensor, columns: int) -> Tensor:
    """[N, 4] distances from the middles of cells to boxes, xyxy in [0, 1]."""
    middles, distances = cell_middles(places, columns), distances.clamp(min=0) * BOX_UNIT
    return torch.cat([middles - distances[:, :2], middles + distances[:, 2:]], dim=-1)


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two boxes, xyxy."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) for box in (one, other)]
    return shared / max(sum(areas) - shared, 1e-9)
