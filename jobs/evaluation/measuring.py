"""Measures of an evaluation's pictures by the published protocols, in replicas of the backbones."""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fireedit.jobs.evaluation.judges import MEASURES
from fireedit.jobs.evaluation.measures import dino, lpips, openai_clip, pixels
from fireedit.jobs.evaluation.measures.dino import DINOMeasure
from fireedit.jobs.evaluation.measures.frozen import check_frozen
from fireedit.jobs.evaluation.measures.lpips import LPIPS
from fireedit.jobs.evaluation.measures.openai_clip import CLIPMeasure
from fireedit.jobs.evaluation.measures.preprocessing import resized
from fireedit.jobs.evaluation.painting import PaintingError, Replicas, map_in_replicas
from fireedit.jobs.evaluation.picture_files import read_picture
from fireedit.jobs.evaluation.sets.evaluation_set import Comparison
from fireedit.jobs.evaluation.sets.reasonedit import SIDE
from fireedit.models.checkpoint_files import CheckpointFileError, check_file, quiet_loading, read_tokenizer
from fireedit.platform import images, storage
from fireedit.platform.console import show

HEADINGS = {
    **MEASURES,
    "l1": "L1",
    "l2": "L2",
    "clip_i": "CLIP-I",
    "dino": "DINO",
    "lpips": "LPIPS",
    "clip_t": "CLIP-T",
    "clip_t_global": "CLIP-T global",
    "clip_dir": "CLIP-dir",
    "psnr_outside": "PSNR",
    "ssim_outside": "SSIM",
    "lpips_outside": "LPIPS",
    "mse_outside": "MSE",
    "clip_score": "CLIPScore",
    "reader": "reader on targets",
}
"""Column heading of each measure; those called outside compare what the mask does not cover."""
DECIMALS = {"l2": 5, "mse_outside": 6, "psnr_outside": 2, "clip_score": 2}
"""Decimals in tables, of measures that have not 4."""
LOWER_IS_BETTER = ("l1", "l2", "lpips", "lpips_outside", "mse_outside", "l1_inside", "l1_outside", "perceptual")
BACKBONES = {
    **dict.fromkeys(("clip_i", "clip_t", "clip_t_global", "clip_dir"), "clip-vit-base-patch32"),
    "dino": "dino-vits16",
    "lpips": "lpips-alex",
    "lpips_outside": "lpips-squeeze",
    "clip_score": "clip-vit-large-patch14",
}
"""Backbone of each measure that has one."""
FOLDERS = {"lpips-alex": "lpips", "lpips-squeeze": "lpips"}
"""Folders of the backbones whose folder is not called as they are."""
MASKED = 128
"""Least value of a mask's pixel inside the region: ReasonEdit's masks are JPEG files."""
BATCH = 32
"""Comparisons measured together, the same in every run."""
EQUAL_DB = 100.0
"""PSNR of equal pictures, which is infinite, so that means stay finite."""

Backbone = CLIPMeasure | DINOMeasure | LPIPS
Values = dict[str, float]


@dataclass(frozen=True)
class Measuring:
    """Measures of an evaluation, as each replica loads them."""

    columns: tuple[str, ...]
    """Measures, of `HEADINGS`."""
    backbones: str
    """Folder with a folder of each backbone; empty for pixel measures alone."""
    pictures: str
    """Folder of the outputs."""
    device: str = "cpu"
    judges: str = ""
    """Folder of the judges of drawn scenes; empty for published sets."""

    @property
    def absent(self) -> dict[str, str]:
        """Folders that are missing, by the columns that need them."""
        needed = {column: BACKBONES[column] for column in self.columns if column in BACKBONES}
        folders = {column: str(self.folder(name)) for column, name in needed.items()}
        return {column: folder for column, folder in folders.items() if not (self.backbones and Path(folder).is_dir())}

    @property
    def present(self) -> list[str]:
        return [column for column in self.columns if column not in self.absent]

    @property
    def loaded(self) -> list[str]:
        """Backbones of the columns that are measured."""
        return list(dict.fromkeys(BACKBONES[column] for column in self.present if column in BACKBONES))

    def folder(self, backbone: str) -> Path:
        return Path(self.backbones or "BACKBONES") / FOLDERS.get(backbone, backbone)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Values of comparisons, in their order, and the weights behind them."""

    values: list[Values]
    """NaN where a measure does not apply."""
    weights: dict[str, str]
    """Fingerprint of each backbone by its own name."""
    truncated: Collection[str] = ()
    """Captions and nouns longer than CLIP's text encoder reads, each once."""
    remarks: Sequence[str] = ()
    """Why an edit failed, of measures that say so; empty for a success."""


def measure(
    measuring: Measuring, comparisons: Sequence[Comparison], replicas: Replicas, actor: type | None = None
) -> Found:
    """Measure outputs in Ray Data, in replicas of `actor`, the published measures by default.

    Raises:
        PaintingError: a picture cannot be read, or as `map_in_replicas`.
    """
    groups = [comparisons[first : first + BATCH] for first in range(0, len(comparisons), BATCH)]
    rows = [
        {"number": number, "group": json.dumps([asdict(each) for each in group])} for number, group in enumerate(groups)
    ]
    found = dict[int, Found]()
    for row in map_in_replicas(rows, actor or MeasureReplica, {"measuring": measuring}, replicas):
        if row["error"]:
            raise PaintingError(row["error"])
        found[row["number"]] = Found(**json.loads(row["found"]))
        show(f"measured {min(BATCH * len(found), len(comparisons))}/{len(comparisons)}")
    ordered = [found[number] for number in range(len(groups))]
    return Found(
        values=[values for each in ordered for values in each.values],
        weights=ordered[0].weights,
        truncated={text for each in ordered for text in each.truncated},
        remarks=[remark for each in ordered for remark in each.remarks],
    )


def answer(row: Mapping[str, Any], measured: Callable[[Sequence[Comparison]], Found]) -> dict[str, Any]:
    """Measure the comparisons of a row; the answer holds what was found, or which picture cannot be read."""
    found, error = "", ""
    try:
        found = json.dumps(asdict(measured([Comparison(**each) for each in json.loads(row["group"])])))
    except images.ImageError as unreadable:
        error = str(unreadable)
    return {"number": row["number"], "found": found, "error": error}


class MeasureReplica:
    """Backbones of one process, as Ray Data calls them."""

    def __init__(self, measuring: Measuring):
        quiet_loading()
        self.measuring = measuring
        self.backbones = load_backbones(measuring)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return answer(row, self._measured)

    def _measured(self, comparisons: Sequence[Comparison]) -> Found:
        values = Batch(comparisons, self.measuring.pictures, self.backbones).measure(self.measuring.present)
        clips = [backbone for backbone in self.backbones.values() if isinstance(backbone, CLIPMeasure)]
        truncated = sorted({text for clip in clips for text in clip.truncated})
        weights = {backbone.name: backbone.weights for backbone in self.backbones.values()}
        return Found(values=values, weights=weights, truncated=truncated)


def check_backbones(measuring: Measuring) -> None:
    """Check the files of the backbones that are there, without loading their weights.

    Raises:
        CheckpointFileError: `--backbones` is no folder, or a file is missing, damaged, or not what its name says.
        WeightsError: a folder holds another model.
    """
    if measuring.backbones and not Path(measuring.backbones).is_dir():
        advice = "write a folder of this machine that holds clip-vit-base-patch32 and the others, or leave it out"
        raise CheckpointFileError(f"--backbones {measuring.backbones}: found no such folder; {advice}")
    for name in measuring.loaded:
        folder = measuring.folder(name)
        if name.startswith("lpips-"):
            for file in lpips.files_of(folder, name.removeprefix("lpips-")):
                check_file(file)
        elif name.startswith("dino"):
            check_frozen(folder, "vit", dino.PUBLISHED)
        else:
            check_frozen(folder, "clip", f"openai/{name}")
            read_tokenizer(folder)


def load_backbones(measuring: Measuring) -> dict[str, Backbone]:
    """Load the backbones of the columns whose folders are there."""
    return {name: _load(name, measuring) for name in measuring.loaded}


def _load(name: str, measuring: Measuring) -> Backbone:
    folder, device = measuring.folder(name), measuring.device
    if name.startswith("lpips-"):
        return LPIPS(folder, name.removeprefix("lpips-"), device)
    return DINOMeasure(folder, device) if name.startswith("dino") else CLIPMeasure(folder, device)


@dataclass
class Batch:
    """Comparisons measured together; pictures are decoded and embedded once."""

    comparisons: Sequence[Comparison]
    pictures: str
    backbones: Mapping[str, Backbone]
    _decoded: dict[str, Image.Image] = field(default_factory=dict)
    _embedded: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def measure(self, columns: Sequence[str]) -> list[Values]:
        """Measure all comparisons; returns the values of each by column."""
        found = {column: self._column(column) for column in columns}
        return [{column: values[place] for column, values in found.items()} for place in range(len(self.comparisons))]

    def _column(self, column: str) -> list[float]:
        if column in PIXELS:
            return [PIXELS[column](*self._pair(each)) for each in self.comparisons]
        if column in OUTSIDE:
            return [OUTSIDE[column](*self._outside(each)) for each in self.comparisons]
        backbone = self.backbones[BACKBONES[column]]
        if isinstance(backbone, LPIPS):
            if column == "lpips_outside":
                return [backbone.distance(*self._outside(each)) for each in self.comparisons]
            return [backbone.distance(*self._pair(each)) for each in self.comparisons]
        if isinstance(backbone, DINOMeasure):
            return self._cosines(backbone)
        return self._clip(column, backbone)

    def _clip(self, column: str, clip: CLIPMeasure) -> list[float]:
        if column == "clip_i":
            return self._cosines(clip)
        if column == "clip_score":
            crops = [self._crop(each) for each in self.comparisons]
            nouns = clip.texts([each.noun for each in self.comparisons])
            return openai_clip.clip_score(clip.pictures(crops), nouns).tolist()
        outputs = self._pictures(clip, [self._output(each) for each in self.comparisons])
        if column == "clip_dir":
            sources = self._pictures(clip, [each.source for each in self.comparisons])
            before = self._texts(clip, [each.source_caption for each in self.comparisons])
            after = self._texts(clip, [each.caption for each in self.comparisons])
            return openai_clip.direction(outputs, sources, after, before).tolist()
        captions = [each.global_caption if column == "clip_t_global" else each.caption for each in self.comparisons]
        return openai_clip.cosine(outputs, self._texts(clip, captions)).tolist()

    def _cosines(self, backbone: CLIPMeasure | DINOMeasure) -> list[float]:
        """Compare outputs and references."""
        outputs = self._pictures(backbone, [self._output(each) for each in self.comparisons])
        references = self._pictures(backbone, [each.reference for each in self.comparisons])
        return openai_clip.cosine(outputs, references).tolist()

    def _pictures(self, backbone: CLIPMeasure | DINOMeasure, addresses: Sequence[str]) -> Tensor:
        """Embed pictures, [B, W]."""
        fresh = [each for each in dict.fromkeys(addresses) if (backbone.name, each) not in self._embedded]
        if fresh:
            embedded = backbone.pictures([self._image(address) for address in fresh])
            self._embedded |= {(backbone.name, address): row for address, row in zip(fresh, embedded, strict=True)}
        return torch.stack([self._embedded[backbone.name, address] for address in addresses])

    def _texts(self, clip: CLIPMeasure, texts: Sequence[str]) -> Tensor:
        """Embed texts, [B, W]."""
        fresh = [text for text in dict.fromkeys(texts) if (f"text {clip.name}", text) not in self._embedded]
        if fresh:
            rows = zip(fresh, clip.texts(fresh), strict=True)
            self._embedded |= {(f"text {clip.name}", text): row for text, row in rows}
        return torch.stack([self._embedded[f"text {clip.name}", text] for text in texts])

    def _output(self, comparison: Comparison) -> str:
        return storage.join(self.pictures, comparison.output)

    def _image(self, address: str) -> Image.Image:
        if address not in self._decoded:
            self._decoded[address] = Image.fromarray(read_picture(address))
        return self._decoded[address]

    def _pair(self, comparison: Comparison) -> tuple[Image.Image, Image.Image]:
        return self._image(self._output(comparison)), self._image(comparison.reference)

    def _outside(self, comparison: Comparison) -> tuple[Image.Image, Image.Image, Tensor]:
        """Bring output and source to ReasonEdit's size, with the factor of each pixel, 0 inside the mask."""
        output, reference = (resized(picture, (SIDE, SIDE)) for picture in self._pair(comparison))
        return output, reference, torch.from_numpy(~self._mask(comparison)).float()

    def _mask(self, comparison: Comparison) -> np.ndarray:
        """Read a mask as bool [SIDE, SIDE]."""
        gray = self._image(comparison.mask).convert("L").resize((SIDE, SIDE), Image.Resampling.NEAREST)
        return np.asarray(gray) >= MASKED

    def _crop(self, comparison: Comparison) -> Image.Image:
        """Cut out the box of the mask.

        Departure from SmartEdit's test/metrics_evaluation.py, where faint pixels of the JPEG file widen the box and
        mask in part, and the box's last row and column are left out.
        """
        rows, columns = np.nonzero(self._mask(comparison))
        output = resized(self._image(self._output(comparison)), (SIDE, SIDE))
        if not len(rows):
            return output
        return output.crop((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))


def _finite_psnr(output: Image.Image, reference: Image.Image, kept: Tensor) -> float:
    value = pixels.psnr(output, reference, kept)
    return EQUAL_DB if math.isinf(value) else value


PIXELS: Mapping[str, Callable[[Image.Image, Image.Image], float]] = {"l1": pixels.l1, "l2": pixels.l2}
OUTSIDE: Mapping[str, Callable[[Image.Image, Image.Image, Tensor], float]] = {
    "psnr_outside": _finite_psnr,
    "ssim_outside": pixels.ssim,
    "mse_outside": pixels.l2,
}
