"""Pretrain at nano size what the paper takes ready-made: `python jobs/pretrain.py PART [--out FOLDER] [key=value ...]`.

    tokenizers   of LLM and text encoder
    clip         text encoder and vision model of CLIP, on images and captions
    vision       DINOv2, region proposer and region encoder, together
    llm          LLaMA and the adapter, on dialogues about images and regions; needs vision
    painter      the UNet, as in InstructPix2Pix, on CLIP's text states; needs clip
    scene_reader reads images as scenes: the judge of drawn scenes
    corpora      scenes as corpora and their shards, for the stages; needs Ray; `1:scenes.rows=50` is for stage 1 alone
    pipeline     all of them in one folder, for `train.py --stage 1 init_from=FOLDER`
    finish       the weights of the last finished stage 3, in float16 in the same folder

Each part is trained on procedural scenes and evaluated at the end. The same command resumes an interrupted training,
and continues a finished one with more `steps`.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fireedit.jobs.training.nano_folder import assemble, copy_components, copy_tokenizers, finish
from fireedit.jobs.training.parts.clip_encoders import CLIPRecipe, CLIPTask
from fireedit.jobs.training.parts.llm import LanguageRecipe, LanguageTask
from fireedit.jobs.training.parts.painter import PainterRecipe, PainterTask
from fireedit.jobs.training.parts.reader import SceneReaderRecipe, SceneReaderTask
from fireedit.jobs.training.parts.tokenizers import train_tokenizers
from fireedit.jobs.training.parts.vision import VisionRecipe, VisionTask
from fireedit.jobs.training.pretraining import PretrainRecipe, PretrainTask, pretrain, resumed_position
from fireedit.models.checkpoint_files import CheckpointFileError
from fireedit.models.model import preset
from fireedit.platform import config, storage

CONFIGS = Path(__file__).parent / "training" / "configs"


TRAINED: dict[str, tuple[type[PretrainRecipe], Callable[..., PretrainTask]]] = {
    "clip": (CLIPRecipe, CLIPTask),
    "vision": (VisionRecipe, VisionTask),
    "llm": (LanguageRecipe, LanguageTask),
    "painter": (PainterRecipe, PainterTask),
    "scene_reader": (SceneReaderRecipe, SceneReaderTask),
}
"""Recipe of each part, and its task, made from the nano sizes, the recipe and the folder of the small model."""
READS_OTHERS = ("clip", "vision", "llm", "painter")
"""Parts that read components which others train; clip and vision share one."""


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_intermixed_args(argv)
    try:
        report = run(args.part, args.out, args.overrides)
    except CheckpointFileError as error:
        sys.exit(f"pretrain.py: {error}")
    print(json.dumps(report))


def run(part: str, out: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train a part and write it to `out`; returns its report."""
    if part == "tokenizers":
        return train_tokenizers(out)
    if part == "corpora":
        from fireedit.jobs.training.ray_run import make_corpora  # needs Ray; the other parts run without it

        commands = [["--stage", stage, *stage_overrides(stage, overrides)] for stage in ("1", "2", "3")]
        return {"part": part, "corpora": make_corpora(commands)}
    if part == "pipeline":
        copy_tokenizers(out)
        return assemble(out)
    if part == "finish":
        return finish(storage.home(), out)
    recipe_type, task = TRAINED[part]
    try:
        recipe = config.load(recipe_type, f"nano-{part}", overrides, CONFIGS)
    except config.RecipeError as error:
        sys.exit(f"pretrain.py: {error}")
    resumed_position(part, recipe)  # refuses other settings before anything is copied
    if recipe.init_from is not None and part in READS_OTHERS:
        copy_components(out, recipe.init_from)
    copy_tokenizers(out)
    torch.manual_seed(recipe.seed)
    return pretrain(task(preset("nano"), recipe, out), recipe, out)


def stage_overrides(stage: str, overrides: Sequence[str]) -> list[str]:
    """Select the overrides for all stages, and those that begin with this stage and a colon."""
    prefixed = [text.partition(":") if text[:2] in ("1:", "2:", "3:") else (stage, "", text) for text in overrides]
    return [override for number, _, override in prefixed if number == stage]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out = Path(storage.home()) / "nano"
    parser.add_argument("part", choices=["tokenizers", *TRAINED, "corpora", "pipeline", "finish"])
    parser.add_argument("--out", type=Path, default=out, help="folder of the small model (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as steps=50 optimizer.lr=1e-4")
    return parser


if __name__ == "__main__":
    main()
