"""Edit an image without a server: `python jobs/edit.py photo.jpg "make the hat red" --weights FOLDER`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from PIL import Image

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import add_setting_flags, setting_flags
from fireedit.platform import storage
from fireedit.platform.console import say


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        report = edit(args)
    except (OSError, ValueError) as error:
        say(f"edit.py: {error}")
        return 1
    print(json.dumps(report))
    return 0


def edit(args: argparse.Namespace) -> dict[str, object]:
    """Edit the image and save the result; returns the job's report."""
    source = Image.open(args.image)
    with nullcontext("nano") if args.weights == "nano" else storage.reading_folder(args.weights) as folder:
        pipeline = FireEditPipeline.from_pretrained(folder).to(args.device)
    started = time.monotonic()
    generator = torch.Generator().manual_seed(args.seed)
    output = pipeline(args.prompt, source, generator=generator, **setting_flags(args))
    output.images[0].save(args.out)
    regions = len(output.regions[0].boxes)
    return {"edited": str(args.out), "regions": regions, "seconds": round(time.monotonic() - started, 2)}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path, help="PNG, JPEG or WebP")
    parser.add_argument("prompt", help="instruction, such as 'remove the dog'")
    parser.add_argument("--weights", default="nano", help="a pipeline folder (default: %(default)s, which ships)")
    parser.add_argument("--out", type=Path, default=Path("edited.png"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add_setting_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
