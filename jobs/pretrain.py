"""Make what the paper takes ready-made, at nano size: `python jobs/pretrain.py PART [--out FOLDER] [key=value ...]`.

    tokenizers   of LLM and text encoder
    clip         text encoder and CLIP's eye, from pictures and captions
    vision       DINOv2, proposer and region encoder, together
    llm          LLaMA and the adapter, from dialogues about pictures and regions; needs vision
    painter      the UNet, InstructPix2Pix's way, on CLIP's text states; needs clip
    scene_reader reads pictures as scenes: the judge of the benchmark
    corpora      scenes as corpora and their shards, for the stages; needs Ray; `1:scenes.rows=50` is for stage 1 alone
    pipeline     all of them in one folder, for `train.py --stage 1 init_from=FOLDER`
    finish       what the last finished stage 3 made of them, in float16 in the same folder

Each part is trained on procedural scenes and ends with its own figures. A training that was broken off goes on when its
command is given again; one that is finished goes on with more `steps`.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fireedit.jobs.training.assembly import assemble, finish
from fireedit.jobs.training.loop import Part, PretrainRecipe, pretrain
from fireedit.jobs.training.parts.clip_encoders import CLIPPart, CLIPRecipe
from fireedit.jobs.training.parts.llm import LanguagePart, LanguageRecipe
from fireedit.jobs.training.parts.painter import PainterPart, PainterRecipe
from fireedit.jobs.training.parts.reader import SceneReaderPart, SceneReaderRecipe
from fireedit.jobs.training.parts.tokenizers import train_tokenizers
from fireedit.jobs.training.parts.vision import VisionPart, VisionRecipe
from fireedit.jobs.training.recipe import CONFIGS
from fireedit.models.model import NANO, preset
from fireedit.platform import config, storage


@dataclass(frozen=True)
class _Trainer:
    recipe: type[PretrainRecipe]
    make: Callable[..., Part]
    """From the nano sizes, the recipe and the folder of what is made already."""


TRAINERS = {
    "clip": _Trainer(CLIPRecipe, CLIPPart),
    "vision": _Trainer(VisionRecipe, VisionPart),
    "llm": _Trainer(LanguageRecipe, LanguagePart),
    "painter": _Trainer(PainterRecipe, PainterPart),
    "scene_reader": _Trainer(SceneReaderRecipe, SceneReaderPart),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="pretrain.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = Path(storage.home()) / "nano"
    parser.add_argument("part", choices=["tokenizers", *TRAINERS, "corpora", "pipeline", "finish"])
    parser.add_argument("--out", type=Path, default=out, help="folder of the small model (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as steps=50 optimizer.lr=1e-4")
    asked = parser.parse_intermixed_args(argv)
    print(json.dumps(run(asked.part, asked.out, asked.overrides)))


def run(part: str, out: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train a part and write it to `out`; its figures."""
    if part == "tokenizers":
        return train_tokenizers(out)
    for name in ("vlm_tokenizer", "tokenizer"):
        if not (out / name).is_dir():
            shutil.copytree(NANO / name, out / name)
    if part == "corpora":
        from fireedit.jobs.train import make_corpora  # all else here runs without Ray

        commands = [["--stage", stage, *_for_stage(stage, overrides)] for stage in "123"]
        return {"part": part, "corpora": make_corpora(commands)}
    if part == "pipeline":
        return assemble(out)
    if part == "finish":
        return finish(storage.home(), out)
    trainer = TRAINERS[part]
    try:
        recipe = config.load(trainer.recipe, f"nano-{part}", overrides, CONFIGS)
    except config.RecipeError as error:
        sys.exit(f"pretrain.py: {error}")
    torch.manual_seed(recipe.seed)
    return pretrain(trainer.make(preset("nano"), recipe, out), recipe, out)


def _for_stage(stage: str, overrides: Sequence[str]) -> list[str]:
    """Those that are for all stages, and those that begin with this one's number and a colon."""
    split = [text.partition(":") if text[:2] in ("1:", "2:", "3:") else (stage, "", text) for text in overrides]
    return [own for number, _, own in split if number == stage]


if __name__ == "__main__":
    main()
