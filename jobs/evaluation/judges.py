"""Judges of edited pictures: the scene reader, pixel errors, and similarities under the small model's encoders.

These encoders are trained on the project's scenes, and the measures' names say so: their values compare the rows of one
table and cannot be compared with published ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fireedit.jobs.evaluation.cases import EditCase, stacked
from fireedit.jobs.evaluation.clip import JUDGE, CLIPJudge
from fireedit.jobs.evaluation.metrics import edit_mask, perceptual_distance, pixel_scores
from fireedit.jobs.evaluation.scene_reader import SceneReader, load_reader, signed
from fireedit.jobs.evaluation.success import verdicts
from fireedit.models.checkpoint_files import check_folder
from fireedit.models.model import NANO
from fireedit.models.vision import Vision
from fireedit.models.weights import fingerprint
from fireedit.platform.scenes import language

BATCH = 64
"""Pictures judged together."""


MEASURES = {
    "success": "success",
    "l1": "L1",
    "l1_inside": "L1 inside",
    "l1_outside": "L1 outside",
    "psnr_inside": "PSNR inside, dB",
    "psnr_outside": "PSNR outside, dB",
    "perceptual": "reader-trunk distance",
    "nano_dino": "nano-DINO",
    "nano_clip_i": "nano-CLIP-I",
    "nano_clip_t": "nano-CLIP-T",
}
"""Column headings; `nano_dino` and `nano_clip_i` are cosines with the target, `nano_clip_t` with its caption."""


@dataclass(frozen=True)
class Score:
    """Verdict and measures of one edited picture."""

    wrong: tuple[str, ...]
    """Reasons for a failure."""
    measures: Mapping[str, float]
    """Values by measure, without those of absent judges; NaN where a mask has no pixels."""

    @property
    def success(self) -> bool:
        return not self.wrong


class Judges:
    """Judges of drawn scenes, the same for every editor."""

    def __init__(self, reader: SceneReader, vision: Vision | None = None, clip: CLIPJudge | None = None):
        self.reader, self.vision, self.clip = reader, vision, clip

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> "Judges":
        """Load the judges in a pipeline's folder, `nano` for the shipped ones; only the scene reader is required.

        Raises:
            FileNotFoundError: there is no scene reader.
        """
        folder = NANO if folder == "nano" else Path(folder)
        reader, vision, clip = load_reader(folder), None, None
        if (folder / "vision").is_dir():
            vision = Vision.from_pretrained(check_folder(folder / "vision"), dtype=torch.float32).eval()
        if (folder / JUDGE).is_file():
            clip = CLIPJudge.from_pretrained(folder)
            clip.clip.to(device)
        return cls(reader.to(device), vision and vision.to(device), clip)

    @property
    def weights(self) -> dict[str, str]:
        """Fingerprint of each judge, by its name in evaluation.json."""
        dino, clip = self.vision and self.vision.dino, self.clip and self.clip.clip
        modules: dict[str, Any] = {"parser": self.reader, "dino": dino, "clip": clip}
        return {name: fingerprint(module) for name, module in modules.items() if module is not None}

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
        needed = {"nano_dino": self.vision, "nano_clip_i": self.clip, "nano_clip_t": self.clip}
        return [measure for measure, judge in needed.items() if judge is None]

    def scores(self, cases: Sequence[EditCase], edited: np.ndarray) -> list[Score]:
        """Score edited pictures, uint8 RGB [B, S, S, 3]."""
        batches = [slice(start, start + BATCH) for start in range(0, len(cases), BATCH)]
        return [score for batch in batches for score in self._batch(cases[batch], edited[batch])]

    @torch.no_grad()
    def _batch(self, cases: Sequence[EditCase], edited: np.ndarray) -> list[Score]:
        device = next(self.reader.parameters()).device
        arrays = (stacked(cases, "source"), edited, stacked(cases, "target"))
        source, output, target = (torch.from_numpy(array).to(device) for array in arrays)
        columns = pixel_scores(output, target, edit_mask(source, target))
        trunk = (self.reader.features(signed(pictures)) for pictures in (output, target))
        columns["perceptual"] = perceptual_distance(*trunk)
        if self.vision is not None:  # mean patch states, as nano's DINOv2 is trained without its class token
            states = (self.vision(view).maps[-1].mean(dim=(2, 3)) for view in (output, target))
            columns["nano_dino"] = F.cosine_similarity(*states)
        if self.clip is not None:
            embedded = self.clip.pictures(output)
            captions = self.clip.texts([language.caption(case.edit.target) for case in cases])
            columns["nano_clip_i"] = F.cosine_similarity(embedded, self.clip.pictures(target))
            columns["nano_clip_t"] = F.cosine_similarity(embedded, captions)
        wrong = verdicts(cases, self.reader.read(edited))
        columns["success"] = torch.tensor([not reasons for reasons in wrong])
        lists = {measure: column.tolist() for measure, column in columns.items()}
        return [
            Score(reasons, {measure: values[index] for measure, values in lists.items()})
            for index, reasons in enumerate(wrong)
        ]
