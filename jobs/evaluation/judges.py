"""Judges of edited pictures: the scene reader, errors of pixels, and likenesses by stand-ins for the usual backbones.

A stand-in is trained on our scenes and says so in its name: its numbers compare the rows of one table and no others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fireedit.jobs.evaluation.cases import Case
from fireedit.jobs.evaluation.clip import JUDGE, CLIPJudge
from fireedit.jobs.evaluation.metrics import edit_mask, likeness, perceptual_distance, pixel_scores
from fireedit.jobs.evaluation.scene_reader import SceneReader, load_reader, signed
from fireedit.jobs.evaluation.success import judge
from fireedit.models.vision import Vision
from fireedit.models.weights import fingerprint
from fireedit.platform.scenes import language

BATCH = 64


@dataclass(frozen=True)
class Score:
    """Findings of the judges on one edited picture; None where a judge is absent, NaN where nothing is there."""

    success: bool
    wrong: tuple[str, ...]
    """Why it is no success."""
    l1: float
    l1_inside: float
    l1_outside: float
    psnr_inside: float
    psnr_outside: float
    perceptual: float
    """Distance from the target in the features of the reader's trunk."""
    dino: float | None = None
    """Cosine with the target of nano's DINOv2."""
    clip_i: float | None = None
    """Cosine with the target of nano's CLIP."""
    clip_t: float | None = None
    """Cosine with the target's caption of nano's CLIP."""


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
"""Fields of a score that are averaged, and what their columns are called."""


class Judges:
    """All judges, the same for every row."""

    def __init__(self, reader: SceneReader, vision: Vision | None = None, clip: CLIPJudge | None = None):
        self.reader, self.vision, self.clip = reader, vision, clip

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Judges":
        """Load whichever lie among the parts in `folder`; only the reader must.

        Raises:
            FileNotFoundError: there is no reader.
        """
        reader, vision, clip = load_reader(folder), None, None
        if (folder / "vision").is_dir():
            vision = Vision.from_pretrained(folder / "vision", dtype=torch.float32).eval()
        if (folder / JUDGE).is_file():
            clip = CLIPJudge.from_pretrained(folder)
            clip.clip.to(device)
        return cls(reader.to(device), vision and vision.to(device), clip)

    @property
    def weights(self) -> dict[str, str]:
        """A hash of each who is there."""
        found = {"parser": fingerprint(self.reader)}
        if self.vision is not None:
            found["dino"] = fingerprint(self.vision.dino)
        if self.clip is not None:
            found["clip"] = fingerprint(self.clip.clip)
        return found

    @property
    def known(self) -> str:
        """The training of the reader, and what the stand-ins are, for a report."""
        config = self.reader.config
        return (
            "The reader was trained on renders of seeds of training, clean and noisy, speckled or soft as editors may "
            f"return them, of {len(config.names)} things and {len(config.backgrounds)} backgrounds in the artwork "
            f"{' and '.join(config.artworks)}. "
            "Measures called nano- are cosines by nano's own CLIP and of the mean patch states of its vision tower: "
            "they compare the rows of this table and nothing else."
        )

    @property
    def absent(self) -> list[str]:
        """Names of the measures that nobody here takes."""
        missing = ["dino"] if self.vision is None else []
        return missing + (["clip_i", "clip_t"] if self.clip is None else [])

    def scores(self, cases: Sequence[Case], edited: np.ndarray) -> list[Score]:
        """Of edited pictures, uint8 RGB [B, S, S, 3]."""
        found = []
        for first in range(0, len(cases), BATCH):
            found += self._scores(cases[first : first + BATCH], edited[first : first + BATCH])
        return found

    @torch.no_grad()
    def _scores(self, cases: Sequence[Case], edited: np.ndarray) -> list[Score]:
        source, target = (np.stack([getattr(case, name) for case in cases]) for name in ("source", "target"))
        device = next(self.reader.parameters()).device
        made, wanted = torch.from_numpy(edited).to(device), torch.from_numpy(target).to(device)
        verdicts = [judge([case.edit], reading) for case, reading in zip(cases, self.reader.read(edited), strict=True)]
        pixels = pixel_scores(made, wanted, edit_mask(torch.from_numpy(source).to(device), wanted))
        perceptual = perceptual_distance(self.reader.features(signed(made)), self.reader.features(signed(wanted)))
        clip_i, clip_t = self._clip(cases, made, wanted)
        columns = {field.name: getattr(pixels, field.name) for field in fields(pixels)} | {
            "perceptual": perceptual,
            "dino": self._dino(made, wanted),
            "clip_i": clip_i,
            "clip_t": clip_t,
        }
        known = {name: column.tolist() for name, column in columns.items() if column is not None}
        return [
            Score(verdict.success, verdict.wrong, **{name: column[index] for name, column in known.items()})
            for index, verdict in enumerate(verdicts)
        ]

    def _dino(self, made: Tensor, wanted: Tensor) -> Tensor | None:
        """Cosines of the mean patch states; a class token means something only to a DINOv2 trained with one."""
        if self.vision is None:
            return None
        one, other = (self.vision(pictures, detail=False).maps[-1].mean(dim=(2, 3)) for pictures in (made, wanted))
        return likeness(one, other)

    def _clip(self, cases: Sequence[Case], made: Tensor, wanted: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Cosines with the target and with its caption."""
        if self.clip is None:
            return None, None
        pictures = self.clip.pictures(made)
        captions = self.clip.texts([language.caption(case.edit.target) for case in cases])
        return likeness(pictures, self.clip.pictures(wanted)), likeness(pictures, captions)
