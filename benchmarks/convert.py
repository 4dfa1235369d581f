"""Benchmark of the conversion of published weights: its peak of memory beside the largest part, in a new process.

The checkpoints have random weights, in the published layouts and precisions, and the paper's proportions at smaller
widths: Groma in float32 in three shards, of which the LLM is written in bfloat16; Vicuna in float16 in two. Memory is
what becomes resident during the conversion, pages of mapped files included.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fireedit.benchmarks import published_folders as published
from fireedit.benchmarks.measuring import family, peak_growth_mb, restart_peaks
from fireedit.jobs.training.published import SHARD_BYTES, convert
from fireedit.jobs.training.published_files import PublishedPaths
from fireedit.models.checkpoint_files import quiet_loading
from fireedit.models.detector import DetectorConfig
from fireedit.models.hvca import HVCAConfig
from fireedit.models.model import FireEditConfig
from fireedit.models.qformer import QFormerConfig
from fireedit.models.region_encoder import RegionEncoderConfig
from fireedit.models.tati import TATIConfig
from fireedit.models.text import TextConfig
from fireedit.models.unet import UNetConfig
from fireedit.models.vae import VAEConfig
from fireedit.models.vision import VisionConfig
from fireedit.models.vlm import VLMConfig
from fireedit.platform.console import say
from fireedit.platform.processes import in_new_process

BOUND = 1.3
"""Largest peak, relative to the largest part."""
WARM_WIDTH = 256
"""Width of the small ones."""


def sizes(width: int) -> FireEditConfig:
    """Make the sizes of a model whose LLM has `width` channels, and the paper's numbers of layers but for the LLM."""
    small = width // 4
    return FireEditConfig(
        vision=VisionConfig(dino_width=small, dino_heads=4, clip_width=small, clip_mlp_width=4 * small, clip_heads=4),
        detector=DetectorConfig(feature_width=small, width=small // 4, heads=4, ffn_width=small),
        region_encoder=RegionEncoderConfig(width=small, width_out=width, groups=16, token_width=small),
        vlm=VLMConfig(width=width, layers=16, heads=8, mlp_width=11 * width // 4, image_width=4 * small),
        qformer=QFormerConfig(width=small, layers=6, heads=4, mlp_width=4 * small, input_width=width),
        tati=TATIConfig(width=small, heads=4),
        hvca=HVCAConfig(source_widths=(small,) * 4, width=small, heads=4, text_width=small, output_width=small),
        unet=UNetConfig(
            block_out_channels=(small // 4, small // 2, small, small), cross_attention_dim=small, norm_num_groups=16
        ),
        vae=VAEConfig(block_out_channels=(32, 64, 128, 128)),
        text=TextConfig(width=small, mlp_width=4 * small, heads=4),
    )


def _paths(root: Path) -> PublishedPaths:
    names = ("groma", "llm", "dinov2", "clip", "instruct_pix2pix", "smartedit")
    return PublishedPaths(**{name: root / name for name in names})


def write(root: Path, width: int) -> None:
    """Write the checkpoints: Groma, Vicuna and SmartEdit as pickles, the others as safetensors."""
    quiet_loading()
    paths, config = _paths(root), sizes(width)
    dinov2, llm = published.save_dinov2(paths.dinov2, config), published.build_llm(config)
    published.save_clip(paths.clip, config)
    published.save_vicuna(root / "llm", llm)
    published.save_groma(paths.groma, published.groma_parts(config), dinov2, llm)
    published.save_instruct_pix2pix(paths.instruct_pix2pix, config)
    published.save_smartedit(root / "smartedit", config, llm)


def measure(scratch: Path, width: int, llm: str) -> dict[str, Any]:
    """Convert; returns seconds, MB of growth at its peak, and MB of each part in the written folder.

    Args:
        llm: "groma" or "vicuna", from whose files the LLM comes.

    A conversion of small ones comes first, as libraries load parts of themselves when they are first used.
    """
    quiet_loading()
    convert(_paths(scratch / str(WARM_WIDTH)), sizes(WARM_WIDTH), scratch / "warm")
    paths, config, out = _paths(scratch / str(width)), sizes(width), scratch / f"out-{llm}"
    if llm == "groma":
        paths = replace(paths, llm=None)
    paper = VLMConfig()
    shard_bytes = SHARD_BYTES * config.vlm.layers * width**2 // (paper.layers * paper.width**2)
    before, begun = restart_peaks(family()[:1]), time.perf_counter()
    reports = convert(paths, config, out, shard_bytes=shard_bytes)
    seconds, peak = time.perf_counter() - begun, peak_growth_mb(before, family()[:1])
    parts = {name: sum(file.stat().st_size for file in (out / name).glob("*.safetensors")) / 1e6 for name in reports}
    return {
        "seconds": round(seconds, 1),
        "peak_mb": round(peak),
        "parts_mb": {name: round(mb) for name, mb in parts.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    quiet_loading()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        for width in (WARM_WIDTH, args.width):
            in_new_process(write, Path(folder) / str(width), width)
        reports = {llm: in_new_process(measure, Path(folder), args.width, llm) for llm in ("groma", "vicuna")}
    report = max(reports.values(), key=lambda report: report["peak_mb"])
    largest = max(report["parts_mb"].values())
    ratio = report["peak_mb"] / largest
    for name, mb in report["parts_mb"].items():
        say(f"{name:15s} {mb:6d} MB")
    for llm, each in reports.items():
        say(f"LLM of {llm}: peak {each['peak_mb']} MB, {each['peak_mb'] / largest:.2f} of the largest part")
    say(f"at most {BOUND} are allowed")
    print(json.dumps({"benchmark": "convert", **report, "largest_mb": largest, "peak_of_largest": round(ratio, 3)}))
    return int(ratio > BOUND)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024, help="channels of the LLM (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder for some GB of files (default: the temporary folder)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
