"""Checks of edit.py's arguments: what contradicts another one, or would be ignored, is refused."""

import argparse

from fireedit.jobs.editing import pictures
from fireedit.jobs.editing.sources import SourcesError, require_seed

FOR_MANY = ("instructions", "column", "image_column", "retry_failed", "pools", "set")
"""Arguments that mean nothing for one picture."""
EDITORS = ("server", "editor", "weights")
"""Arguments of which each names what edits."""


def check_arguments(args: argparse.Namespace, many: bool) -> None:
    """Raise ValueError for arguments that cannot be together, or not for one picture, or for many."""
    pictures.require_size(args.size)
    require_seed(args.seed, "--seed")
    editors = [f"--{name} {value}" for name in EDITORS if (value := getattr(args, name))]
    if len(editors) > 1:
        raise SourcesError(f"{editors[0]}: found with {editors[1]}, and only one can edit; leave the other out")
    if args.prompt and args.instruction:
        raise SourcesError(f"--instruction: found {args.instruction!r} beside {args.prompt!r}; write one of them")
    if many and (args.mask or not args.out):
        wrong = "--mask is for one picture; leave it out" if args.mask else "found no --out; write a folder"
        raise SourcesError(f"{args.image}: {wrong}")
    if not many:
        _check_one(args)


def _check_one(args: argparse.Namespace) -> None:
    if not (args.prompt or args.instruction):
        raise SourcesError(f"{args.image}: found no instruction; write one behind the picture")
    for name in FOR_MANY:
        if getattr(args, name):
            flag = f"--{name.replace('_', '-')}"
            raise SourcesError(f"{flag} is for a folder or parquet files; found the picture {args.image}; leave it out")
    named = pictures.known_format(args.out or "")
    if named and args.format and named != args.format:
        raise SourcesError(f"--format {args.format}: found --out {args.out}; leave one of them out")
