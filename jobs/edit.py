"""Edit one picture or a million, without a server or through one.

`edit.py photo.jpg "make the hat red"` edits one. `edit.py FOLDER|PARQUET|s3://... "make the hat red" --out DIR|s3://...`
edits all pictures of a folder or of parquet files in Ray Data, each by its own instruction with --instructions or
--column. A job that was interrupted goes on when it is started again.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

from fireedit.jobs.editing import pictures, service, sources
from fireedit.jobs.editing.arguments import check_arguments
from fireedit.jobs.editing.many import ManyEdits
from fireedit.jobs.editing.pools import FOLDER, PoolsConfig
from fireedit.models.editors.editor import EDITORS, NANO
from fireedit.models.settings import add_setting_flags, setting_flags
from fireedit.platform import config, storage
from fireedit.platform.console import say


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        check_arguments(args, many := sources.are_many(args.image))
        report = edit_many(args) if many else edit(args)
    except (OSError, ValueError) as error:
        say(f"edit.py: {error}")
        return 1
    print(json.dumps(report))
    return 0


def edit(args: argparse.Namespace) -> dict[str, Any]:
    """Edit one picture and save the result; returns the job's report."""
    prompt, changes = args.prompt or args.instruction, setting_flags(args)
    out = args.out or "edited" + pictures.SUFFIXES[args.format or "png"]
    file_format, data = args.format or pictures.format_of(out), storage.read_bytes(args.image)
    mask = pictures.read_mask(storage.read_bytes(args.mask)) if args.mask else None
    started = time.monotonic()
    if args.server:
        fields = service.form_fields(prompt, args.seed, file_format, args.size, changes)
        answer = service.connect(args.server, args.api_key_file).edit(data, fields, mask)
        encoded, regions = answer.data, answer.regions
    else:
        from fireedit.jobs.editing.single import edit_picture  # imports torch, which takes seconds

        options = (args.weights or NANO, args.device, args.seed, changes, args.size, mask, file_format, args.editor)
        encoded, regions = edit_picture(data, prompt, *options)
    storage.write_bytes(out, encoded)
    return {"edited": out, "regions": regions, "seconds": round(time.monotonic() - started, 2)}


def edit_many(args: argparse.Namespace) -> dict[str, Any]:
    """Edit a folder of pictures or parquet files; returns the job's report."""
    edits = ManyEdits(
        source=storage.absolute(args.image),
        out=storage.absolute(args.out),
        instruction=args.prompt or args.instruction,
        instructions=args.instructions and storage.absolute(args.instructions),
        column=args.column,
        image_column=args.image_column,
        seed=args.seed,
        file_format=args.format or "png",
        size=args.size,
        changes=setting_flags(args),
        retry_failed=args.retry_failed,
    )
    if args.server:
        return service.edit_many(edits, service.connect(args.server, args.api_key_file), args.concurrency)
    from fireedit.jobs.editing import single, workers  # import torch and Ray

    name = args.pools or (args.device or single.default_device()).partition(":")[0]
    pools = config.load(PoolsConfig, name, args.set, FOLDER)
    return workers.edit_many(edits, args.weights or NANO, pools, args.editor)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = " (default: %(default)s)"
    parser.add_argument("image", help="PNG, JPEG or WebP; of many, a folder or parquet files, local or s3://")
    parser.add_argument("prompt", nargs="?", default="", help="instruction, such as 'remove the dog'")
    parser.add_argument("--out", help="picture file (default: edited.png); of many, a folder, local or s3://")
    parser.add_argument("--weights", default="", help=f"a pipeline folder (default: {NANO}, which ships)")
    parser.add_argument("--editor", default="", metavar="NAME=FOLDER", help=f"another system: {', '.join(EDITORS)}")
    parser.add_argument(
        "--seed", type=int, default=0, help="of many, each has its own, made of this and its id" + default
    )
    parser.add_argument("--device", default="", help="default: cuda if there is one, else cpu")
    parser.add_argument(
        "--format", choices=list(pictures.SUFFIXES), help="default: by the suffix of --out; of many, png"
    )
    parser.add_argument("--size", default="auto", help="auto, canvas or WIDTHxHEIGHT" + default)
    parser.add_argument("--mask", default="", help="PNG, WebP: transparent, else white, where the picture may change")
    parser.add_argument(
        "--server", default="", help="http://... of a running service that edits, in place of --weights"
    )
    parser.add_argument("--api-key-file", default="", help="its key (default: the variable FIREEDIT_API_KEY)")
    many = parser.add_argument_group("many pictures")
    many.add_argument("--instruction", default="", help="one for all, as behind the source")
    many.add_argument(
        "--instructions", default="", help="JSON lines or CSV with image and instruction, perhaps id, seed"
    )
    many.add_argument("--column", default="", help="of parquet files: instructions (default: by its usual names)")
    many.add_argument("--image-column", default="", help="of parquet files: bytes, {bytes, path} or paths")
    many.add_argument("--retry-failed", action="store_true", help="edit rows again that were set aside")
    many.add_argument("--concurrency", type=int, default=8, help="edits at a time through --server" + default)
    many.add_argument("--pools", default="", help="cpu, cuda or a YAML file of actor pools (default: by --device)")
    many.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="in the pools: paint.max_actors=8"
    )
    add_setting_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
