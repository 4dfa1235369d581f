"""Scene reader: detects the objects, background, effect and mirror of a picture, by which edits are judged.

It is a judge, independent of the editor, and is trained on things that the editor never sees; its config lists them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import Tensor, nn

from fireedit.models.checkpoint_files import read_tensors
from fireedit.models.layers.boxes import box_iou, nms
from fireedit.platform.scenes.backgrounds import BACKGROUNDS
from fireedit.platform.scenes.objects import COLORS, THINGS
from fireedit.platform.scenes.scene import EFFECTS, MIRROR_SIZE, Box

STRIDE = 4
"""Pixels per cell of the maps in which objects are detected."""
BOX_UNIT = 0.1
"""Unit of the predicted distances, in picture sides."""
MAX_OBJECTS = 12
MIN_SCORE = 0.4
"""Least score of a detected object."""
NMS_IOU = 0.6
"""IoU above which the weaker of two detections is dropped."""
FOLDER, WEIGHTS, CONFIG = "judges", "scene_reader.safetensors", "scene_reader.json"


@dataclass(frozen=True, kw_only=True)
class SceneReaderConfig:
    """Sizes of the network, and the classes it knows."""

    widths: tuple[int, ...] = (32, 96, 120)
    """Channels at 1/2, 1/4, ... of the resolution."""
    depths: tuple[int, ...] = (1, 2, 2)
    """Blocks of each level on the way down; the way up has half as many, at least one."""
    groups: int = 8
    """Groups of the group normalization."""
    names: tuple[str, ...] = tuple(THINGS)
    colors: tuple[str, ...] = tuple(COLORS)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    effects: tuple[str, ...] = ("", *EFFECTS)
    artworks: tuple[str, ...] = ()
    """Artworks of the training renders."""


@dataclass(frozen=True)
class DetectedObject:
    """Detected object."""

    name: str
    box: Box
    color: str
    """Likeliest color, given also for things without a nameable color."""
    reflection: bool
    score: float

    @property
    def middle(self) -> float:
        """Center of the box, x."""
        return (self.box[0] + self.box[2]) / 2


@dataclass(frozen=True)
class SceneReading:
    """Contents of a picture as the reader detects them."""

    objects: tuple[DetectedObject, ...]
    background: str
    effect: str
    mirror: tuple[float, float] | None
    """Center x and lower edge y, as in a scene; None without a mirror."""


@dataclass(frozen=True)
class Maps:
    """Outputs of the network for B pictures; h, w are their sides over `STRIDE`."""

    objects: Tensor
    """[B, h, w] logits of object centers."""
    boxes: Tensor
    """[B, h, w, 4] distances from the cell's center to left, top, right and bottom, in `BOX_UNIT`s."""
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
    """[B, h, w] logits of the mirror's center."""


class SceneReader(nn.Module):
    """Convolutional U-Net with a CenterNet head for objects and a pooled head for background and effect.

    Patches of 4 x 4 pixels are embedded directly at the level of the object head; the finer level serves textures such
    as blur and pixel art.
    Source: CenterNet (arXiv 1904.07850) for the heads; a single center map is shared by all names.
    """

    def __init__(self, config: SceneReaderConfig):
        super().__init__()
        self.config = config
        widths, depths, groups = config.widths, config.depths, config.groups
        transitions = list(zip(widths, widths[1:], strict=False))  # from each level to the next coarser one
        self.stem = nn.Conv2d(3, widths[0], 2, stride=2)
        self.patches = nn.Conv2d(3, widths[1], STRIDE, stride=STRIDE)
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in transitions)
        self.blocks = nn.ModuleList(_blocks(width, depth, groups) for width, depth in zip(widths, depths, strict=False))
        self.ups = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in transitions[1:])
        merged = list(zip(widths, depths, strict=False))[1:-1]
        self.merged = nn.ModuleList(_blocks(width, max(depth // 2, 1), groups) for width, depth in merged)
        self.shared = nn.Sequential(nn.GroupNorm(groups, widths[1]), nn.SiLU())
        self.sizes = (1, 4, len(config.names), len(config.colors), 1, 1)
        self.objects = nn.Conv2d(widths[1], sum(self.sizes), 1)
        classes, width = len(config.backgrounds) + len(config.effects), 2 * sum(widths)
        self.whole = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 96), nn.SiLU(), nn.Linear(96, classes))
        assert self.objects.bias is not None
        nn.init.constant_(self.objects.bias[:1], -3.0)  # nearly all cells are empty
        nn.init.constant_(self.objects.bias[-1:], -3.0)

    def forward(self, pictures: Tensor) -> Maps:
        """Predict the maps of `pictures`, [B, 3, S, S] in [-1, 1]."""
        levels = self.features(pictures)
        x = levels[-1]
        for up, merge, fine in reversed(list(zip(self.ups, self.merged, levels[1:-1], strict=True))):
            x = merge(fine + F.interpolate(up(x), scale_factor=2.0, mode="nearest"))
        cells = self.objects(self.shared(x)).permute(0, 2, 3, 1).float()
        objects, boxes, names, colors, reflections, mirrors = cells.split(self.sizes, dim=-1)
        whole = self.whole(torch.cat([pooled for level in levels for pooled in _statistics(level)], dim=1))
        backgrounds, effects = whole.float().split((len(self.config.backgrounds), len(self.config.effects)), dim=1)
        objects, reflections, mirrors = (logits.squeeze(-1) for logits in (objects, reflections, mirrors))
        return Maps(objects, boxes, names, colors, reflections, backgrounds, effects, mirrors)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Compute the trunk's feature maps, fine to coarse, each [B, C_l, h_l, w_l]."""
        levels = [self.blocks[0](self.stem(pictures))]
        for index, (down, block) in enumerate(zip(self.downs, self.blocks[1:], strict=True)):
            x = down(levels[-1])
            levels.append(block(x + self.patches(pictures) if index == 0 else x))
        return levels

    @torch.no_grad()
    def read(self, pictures: np.ndarray) -> list[SceneReading]:
        """Read uint8 RGB [B, S, S, 3] on the device of the weights."""
        return self.readings(self(signed(torch.from_numpy(pictures).to(next(self.parameters()).device))))

    def readings(self, maps: Maps) -> list[SceneReading]:
        """Decode maps: local maxima are objects."""
        maps = Maps(**{name: value.float().cpu() for name, value in vars(maps).items()})
        scores = maps.objects.sigmoid()
        highest = F.max_pool2d(scores[:, None], 3, stride=1, padding=1)[:, 0]
        scores = torch.where(scores == highest, scores, 0)
        return [self._reading(maps, scores[index], index) for index in range(len(scores))]

    def _reading(self, maps: Maps, peaks: Tensor, index: int) -> SceneReading:
        mirrors = maps.mirrors[index].sigmoid().flatten()
        x, y = cell_centers(mirrors.argmax(), maps.mirrors.shape[-1]).tolist()
        return SceneReading(
            objects=self._objects(maps, peaks, index),
            background=self.config.backgrounds[int(maps.backgrounds[index].argmax())],
            effect=self.config.effects[int(maps.effects[index].argmax())],
            mirror=(x, y + MIRROR_SIZE[1] / 2) if mirrors.max() >= MIN_SCORE else None,
        )

    def _objects(self, maps: Maps, peaks: Tensor, index: int) -> tuple[DetectedObject, ...]:
        """Decode the objects of one picture by descending score; `peaks` [h, w] are scores, 0 off the local maxima."""
        scores, cells = peaks.flatten().topk(MAX_OBJECTS)
        cells = cells[scores >= MIN_SCORE]
        boxes = _boxes(maps.boxes[index].flatten(0, 1)[cells], cells, peaks.shape[1])
        return tuple(
            self._object(maps, (index, *divmod(int(cells[number]), peaks.shape[1])), boxes[number], scores[number])
            for number in nms(boxes, scores[: len(cells)], NMS_IOU).tolist()
        )

    def _object(self, maps: Maps, cell: tuple[int, int, int], box: Tensor, score: Tensor) -> DetectedObject:
        """Decode the object of a cell (picture, row, column)."""
        left, top, right, bottom = box.tolist()
        return DetectedObject(
            name=self.config.names[int(maps.names[cell].argmax())],
            box=(left, top, right, bottom),
            color=self.config.colors[int(maps.colors[cell].argmax())],
            reflection=bool(maps.reflections[cell] > 0),
            score=float(score),
        )


class _Block(nn.Module):
    """Residual block of two convolutions, initialized to the identity."""

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
    """Compute mean and standard deviation over the cells of [B, C, h, w], each [B, C]."""
    level = level.float()
    mean = level.mean(dim=(2, 3))
    variance = level.square().mean(dim=(2, 3)) - mean.square()
    return mean, variance.clamp(min=1e-6).sqrt()


def signed(pictures: Tensor) -> Tensor:
    """Convert uint8 RGB [B, S, S, 3] to [B, 3, S, S] in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def save_reader(reader: SceneReader, folder: Path) -> None:
    """Write weights in half precision and config to the judges of a pipeline's folder."""
    judges = folder / FOLDER
    judges.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().cpu().contiguous() for name, tensor in reader.state_dict().items()}
    save_file(state, judges / WEIGHTS)
    (judges / CONFIG).write_text(json.dumps(asdict(reader.config), indent=1) + "\n")


def load_reader(folder: Path) -> SceneReader:
    """Load the reader from the judges of a pipeline's folder.

    Raises:
        FileNotFoundError: the folder has no scene reader.
    """
    judges = folder / FOLDER
    if not (judges / WEIGHTS).is_file():
        raise FileNotFoundError(f"{judges / WEIGHTS} is missing; run: jobs/pretrain.py scene_reader --out {folder}")
    reader = SceneReader(TypeAdapter(SceneReaderConfig).validate_json((judges / CONFIG).read_bytes()))
    reader.load_state_dict({name: tensor.float() for name, tensor in read_tensors(judges / WEIGHTS).items()})
    return reader.eval().requires_grad_(False)


def cell_centers(cells: Tensor, columns: int) -> Tensor:
    """Convert flat cell indices [...] of a square map to centers [..., 2], x and y in [0, 1]."""
    return (torch.stack([cells % columns, cells // columns], dim=-1) + 0.5) / columns


def _boxes(distances: Tensor, cells: Tensor, columns: int) -> Tensor:
    """Convert distances [N, 4] from the centers of cells to boxes [N, 4], xyxy in [0, 1]."""
    centers, distances = cell_centers(cells, columns), distances.clamp(min=0) * BOX_UNIT
    return torch.cat([centers - distances[:, :2], centers + distances[:, 2:]], dim=-1)


def iou(box: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes, xyxy."""
    return box_iou(torch.tensor([box]), torch.tensor([other])).item()
