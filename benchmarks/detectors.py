"""Benchmark of the region detectors: seconds per picture of each, measured in turn in one run.

Each proposes regions of the same drawn scenes, and the best of them are selected. The vision tower's time, which all
kinds share, is not counted. Without names nano's own detector runs beside a tiny SAM and a tiny RT-DETR of random
weights, which find nothing: that shows the table, not the speed of published ones.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from fireedit.benchmarks.tiny_detectors import save_tiny_rt_detr, save_tiny_sam
from fireedit.models.checkpoint_files import quiet_loading
from fireedit.models.detectors.kinds import AnyDetectorConfig, load_detector
from fireedit.models.detectors.proposals import DetectorError, Proposals, RegionDetector, select_proposals
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.vision import Vision, VisionFeatures
from fireedit.platform.console import say
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.world import WORLDS

PAPER_SECONDS = 0.2
"""The paper's seconds per picture for its proposals."""
KINDS = ("sam", "hf", "yolov10")
TINY_SIDE = 64
"""Side of the view of the tiny ones, pixels, which is nano's too."""


@dataclass
class Contestant:
    """A detector and the batches that it proposes regions of."""

    name: str
    detector: RegionDetector
    vision: Vision | None
    """Tower of its pipeline; None for a detector that needs none."""
    side: int
    """Side of the view, pixels."""
    batches: list[tuple[VisionFeatures | None, Tensor]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Seconds per picture of each round."""
    kept: list[int] = field(default_factory=list)
    """Regions selected of each picture, in every round."""

    @torch.no_grad()
    def look(self, pictures: int, batch: int, device: str) -> None:
        """Draw the scenes at the view's side, and run the tower."""
        self.detector.to(device)
        scenes = torch.from_numpy(np.stack([scene(number, self.side) for number in range(pictures)])).to(device)
        for view in scenes.split(batch):
            features = None if self.vision is None else self.vision.to(device)(view, detail=False)
            self.batches.append((features, view))

    @torch.no_grad()
    def run(self) -> None:
        """Propose and select the regions of all pictures once; selection runs on the CPU, as in an edit."""
        begun, kept = time.perf_counter(), list[int]()
        for features, view in self.batches:
            proposals: Proposals = self.detector(features, view)
            for boxes, scores in zip(proposals.boxes.cpu(), proposals.scores.cpu(), strict=True):
                kept.append(len(select_proposals(boxes, scores, self.detector.proposal_config)))
        self.seconds.append((time.perf_counter() - begun) / len(kept))
        self.kept += kept

    def row(self) -> dict[str, Any]:
        """Sum up the rounds, the first apart, which warms up."""
        return {
            "name": self.name,
            "kind": self.detector.config.kind,
            "view_px": self.side,
            "parameters": sum(parameter.numel() for parameter in self.detector.parameters()),
            "regions": statistics.mean(self.kept),
            "s_per_picture": statistics.median(self.seconds[1:]),
            "slowest_s_per_picture": max(self.seconds[1:]),
        }


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    quiet_loading()
    with tempfile.TemporaryDirectory() as folder:
        names = args.detectors or tiny_ones(Path(folder))
        try:
            contestants = [enter(name, args.side if args.detectors else TINY_SIDE) for name in names]
        except (DetectorError, OSError) as error:
            sys.exit(f"detectors.py: {error}")
    for contestant in contestants:
        contestant.look(args.pictures, args.batch, args.device)
    for _ in range(args.rounds + 1):
        for contestant in contestants:
            contestant.run()
    device = torch.cuda.get_device_name() if args.device != "cpu" else f"CPU, threads: {torch.get_num_threads()}"
    rows = [contestant.row() for contestant in contestants]
    show(rows, device)
    report = {"benchmark": "detectors", "device": device, "pictures": args.pictures, "batch": args.batch}
    print(json.dumps(report | {"paper_s_per_picture": PAPER_SECONDS, "detectors": rows}))
    return 0


def tiny_ones(folder: Path) -> list[str]:
    """Save detectors of random weights; returns their names and nano's."""
    return ["nano", f"sam={save_tiny_sam(folder / 'sam')}", f"hf={save_tiny_rt_detr(folder / 'rt-detr')}"]


def enter(name: str, side: int) -> Contestant:
    """Load the detector of a pipeline, whose view is its own, or a published one.

    Raises:
        DetectorError: it is missing, damaged or of another kind.
        OSError: a file of the pipeline is missing or damaged.
    """
    kind, equals, source = name.partition("=")
    if equals and kind in KINDS:
        settings = {"kind": f"hf:{source}"} if kind == "hf" else {"kind": kind, "folder": source}
        config = TypeAdapter(AnyDetectorConfig).validate_python(settings)
        return Contestant(name, load_detector(config), None, side)
    if name != "nano" and not Path(name).is_dir():
        raise DetectorError(
            f"{name}: no such folder; write nano, a pipeline's folder, sam=FOLDER, hf=NAME or yolov10=FOLDER"
        )
    pipeline = FireEditPipeline.from_pretrained(name, parts=("vision", "detector"))
    return Contestant(name, pipeline.detector, pipeline.vision, pipeline.vision.config.image_size)


def scene(number: int, side: int) -> np.ndarray:
    """Draw a held-out scene, uint8 RGB [side, side, 3]."""
    world = WORLDS["unseen_seeds"]
    return np.ascontiguousarray(draw_scene(make_edit(world, world.seeds[number]).source, side).image)


def show(rows: Sequence[dict[str, Any]], device: str) -> None:
    """Print the table for people."""
    say(f"{'detector':32s}{'view, px':>9s}{'parameters':>12s}{'regions':>9s}{'s a picture':>12s}{'slowest round':>15s}")
    for row in rows:
        say(
            f"{row['name'][-31:]:32s}{row['view_px']:9d}{row['parameters'] / 1e6:10.2f} M{row['regions']:9.1f}"
            f"{row['s_per_picture']:10.4f} s{row['slowest_s_per_picture']:13.4f} s"
        )
    say(f"on {device}; regions: selected of a picture, on average; the paper says {PAPER_SECONDS} s a picture")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of_names = (
        "`nano`, the folder of a pipeline, or sam=FOLDER, hf=FOLDER, hf=NAME, yolov10=FOLDER of published weights"
    )
    parser.add_argument("detectors", nargs="*", help=f"{of_names} (default: nano, and tiny ones of random weights)")
    parser.add_argument("--side", type=int, default=448, help="pixels of the view of published ones (default: 448)")
    parser.add_argument("--pictures", type=int, default=8, help="scenes (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="pictures of a batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="after one that warms up (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
