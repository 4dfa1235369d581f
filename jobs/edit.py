"""Edit a picture without any server: `python jobs/edit.py photo.jpg "make the hat red" --weights FOLDER`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.tokens import PromptError
from fireedit.platform import storage
from fireedit.platform.images import ImageError, decode


def main() -> None:
    parser = argparse.ArgumentParser(prog="edit.py", description=__doc__)
    parser.add_argument("picture", type=Path, help="PNG, JPEG or WebP")
    parser.add_argument("prompt", help="what to change, in words")
    parser.add_argument("--weights", default="nano", help="a pipeline folder (default: %(default)s, what ships)")
    parser.add_argument("--out", type=Path, default=Path("edited.png"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    for name in ("steps", "guidance-scale", "image-guidance-scale", "keep-below"):
        kind = int if name == "steps" else float
        parser.add_argument(f"--{name}", type=kind, help="default: what suits the weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    try:
        print(json.dumps(edit(asked)))
    except (OSError, ImageError, PromptError, ValueError) as error:
        sys.exit(f"edit.py: {error}")


def edit(asked: argparse.Namespace) -> dict[str, object]:
    source = decode(asked.picture.read_bytes())
    with nullcontext("nano") if asked.weights == "nano" else storage.reading_folder(asked.weights) as folder:
        pipeline = FireEditPipeline.from_pretrained(folder).to(asked.device)
    began = time.monotonic()
    done = pipeline(
        asked.prompt,
        source,
        num_inference_steps=asked.steps,
        guidance_scale=asked.guidance_scale,
        image_guidance_scale=asked.image_guidance_scale,
        keep_below=asked.keep_below,
        generator=torch.Generator().manual_seed(asked.seed),
    )
    done.images[0].save(asked.out)
    regions = len(done.regions[0].boxes)
    return {"edited": str(asked.out), "regions": regions, "seconds": round(time.monotonic() - began, 2)}


if __name__ == "__main__":
    main()
