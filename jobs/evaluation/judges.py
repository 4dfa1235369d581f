"""Judges of edited pictures: the scene reader, pixel errors, and similarities under the small model's encoders.

These encoders are trained on the project's scenes, and the measures' names say so: their values compare the rows of one
table and cannot be compared with published ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fireedit.jobs.evaluation.cases import EditCase
from fireedit.jobs.evaluation.clip import JUDGE, CLIPJudge
from fireedit.jobs.evaluation.metrics import cosine, edit_mask, perceptual_distance, pixel_scores
from fireedit.jobs.evaluation.scene_reader import SceneReader, load_reader, signed
from fireedit.jobs.evaluation.success import judge
from fireedit.models.checkpoint_files import check_folder
from fireedit.models.vision import Vision
from fireedit.models.weights import fingerprint
from fireedit.platform.scenes import language

BATCH = 64
"""Pictures judged together."""


@dataclass(frozen=True)
class Score:
    """Measures of one edited picture; None where a judge is absent, NaN where a mask has no pixels."""

    success: bool
    wrong: tuple[str, ...]
    """Reasons for a failure."""
    l1: float
    l1_inside: float
    l1_outside: float
    psnr_inside: float
    psnr_outside: float
    perceptual: float
    """Distance from the target in the features of the reader's trunk."""
    dino: float | None = None
    """Cosine with the target under the small model's DINOv2."""
    clip_i: float | None = None
    """Cosine with the target under the small model's CLIP."""
    clip_t: float | None = None
    """Cosine with the target's caption under the small model's CLIP."""


MEASURES = {
    "success": "success",
    "l1": "L1",
    "l1_inside": "L1 inside",
    "l1_outside": "L1 outside",
    "psnr_inside": "PSNR inside, dB",
    "psnr_outside": "PSNR outside, dB",
    "perceptual": "reader-trunk distance",
    "dino": "nano-DINO",
    "clip_i": "nano-CLIP-I",
    "clip_t": "nano-CLIP-T",
}
"""Column headings of the fields of `Score` that are averaged."""


class Judges:
    """Judges of a benchmark, the same for every row."""

    def __init__(self, reader: SceneReader, vision: Vision | None = None, clip: CLIPJudge | None = None):
        self.reader, self.vision, self.clip = reader, vision, clip

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Judges":
        """Load the judges in a pipeline's folder; only the scene reader is required.

        Raises:
            FileNotFoundError: there is no scene reader.
        """
        reader, vision, clip = load_reader(folder), None, None
        if (folder / "vision").is_dir():
            vision = Vision.from_pretrained(check_folder(folder / "vision"), dtype=torch.float32).eval()
        if (folder / JUDGE).is_file():
            clip = CLIPJudge.from_pretrained(folder)
            clip.clip.to(device)
        return cls(reader.to(device), vision and vision.to(device), clip)

    @property
    def weights(self) -> dict[str, str]:
        """Fingerprint of each judge, by its name in benchmark.json."""
        fingerprints = {"parser": fingerprint(self.reader)}
        if self.vision is not None:
            fingerprints["dino"] = fingerprint(self.vision.dino)
        if self.clip is not None:
            fingerprints["clip"] = fingerprint(self.clip.clip)
        return fingerprints

    @property
    def description(self) -> str:
        """Training data of the judges, for a report."""
        config = self.reader.config
        return (
            "The scene reader was trained on renders of training seeds, clean and degraded (noise, speckles, blur), of "
            f"{len(config.names)} things and {len(config.backgrounds)} backgrounds in the artwork "
            f"{' and '.join(config.artworks)}. "
            "Measures called nano- are cosines under nano's own CLIP and of the mean patch states of its vision tower: "
            "they compare the rows of this table only."
        )

    @property
    def absent(self) -> list[str]:
        """Measures whose judges were not loaded."""
        missing = ["dino"] if self.vision is None else []
        return missing + (["clip_i", "clip_t"] if self.clip is None else [])

    def scores(self, cases: Sequence[EditCase], edited: np.ndarray) -> list[Score]:
        """Score edited pictures, uint8 RGB [B, S, S, 3]."""
        starts = range(0, len(cases), BATCH)
        batches = [self._batch(cases[start : start + BATCH], edited[start : start + BATCH]) for start in starts]
        return [score for batch in batches for score in batch]

    @torch.no_grad()
    def _batch(self, cases: Sequence[EditCase], edited: np.ndarray) -> list[Score]:
        device = next(self.reader.parameters()).device
        arrays = (np.stack([case.source for case in cases]), edited, np.stack([case.target for case in cases]))
        source, output, target = (torch.from_numpy(array).to(device) for array in arrays)
        pixels = pixel_scores(output, target, edit_mask(source, target))
        trunk = (self.reader.features(signed(pictures)) for pictures in (output, target))
        columns = vars(pixels) | {"perceptual": perceptual_distance(*trunk)}
        columns |= self._dino(output, target) | self._clip(cases, output, target)
        lists = {name: column.tolist() for name, column in columns.items()}
        verdicts = [judge([case.edit], reading) for case, reading in zip(cases, self.reader.read(edited), strict=True)]
        return [
            Score(verdict.success, verdict.wrong, **{name: values[index] for name, values in lists.items()})
            for index, verdict in enumerate(verdicts)
        ]

    def _dino(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Cosines of the mean patch states: nano's DINOv2 is trained without its class token."""
        if self.vision is None:
            return {}
        pair = (self.vision(view, detail=False).maps[-1].mean(dim=(2, 3)) for view in (output, target))
        return {"dino": cosine(*pair)}

    def _clip(self, cases: Sequence[EditCase], output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Cosines with the target and with its caption."""
        if self.clip is None:
            return {}
        embedded = self.clip.pictures(output)
        captions = self.clip.texts([language.caption(case.edit.target) for case in cases])
        return {"clip_i": cosine(embedded, self.clip.pictures(target)), "clip_t": cosine(embedded, captions)}
