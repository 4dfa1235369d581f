"""Prepare corpora for training: `python jobs/prepare.py scenes` writes procedural scenes as published corpora."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import functools
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pyarrow import fs

from fireedit.platform import storage
from fireedit.platform.data.scenes import world
from fireedit.platform.data.scenes.assets import MissingAssetsError
from fireedit.platform.data.writers import (
    cc12m,
    cocostuff,
    grefcoco,
    instructpix2pix,
    llava_instruct,
    magicbrush,
    reasonedit,
    refcoco,
    ultraedit,
)

MANIFEST = "prepared.json"
"""Lies in a corpus that this job wrote, and says with which settings."""

SEEDS_PER_CORPUS = 50_000_000
"""Each corpus draws from a range of its own, so that no two show the same scene."""


class Writer(Protocol):
    """Writes scenes into a folder as the files of one published corpus."""

    def __call__(self, folder: pathlib.Path, seeds: Iterator[int], size: int, world: world.World) -> None: ...


WRITERS: dict[str, Writer] = {
    "cc12m": cc12m.write,
    "instructpix2pix": instructpix2pix.write,
    "cocostuff": cocostuff.write,
    "llava_instruct": llava_instruct.write,
    "refcoco": functools.partial(refcoco.write, corpus="refcoco"),
    "refcoco+": functools.partial(refcoco.write, corpus="refcoco+"),
    "refcocog": functools.partial(refcoco.write, corpus="refcocog"),
    "grefcoco": grefcoco.write,
    "magicbrush": magicbrush.write,
    "ultraedit": ultraedit.write,
    "reasonedit": reasonedit.write,
}


class PrepareError(ValueError):
    """Arguments or folders that this job cannot work with."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        report = prepare_scenes(args.out, args.corpora.split(","), args.rows, args.size, args.seed)
    except (PrepareError, MissingAssetsError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


def prepare_scenes(out: str, corpora: Sequence[str], rows: int, size: int, seed: int) -> dict[str, Any]:
    """Write each corpus under `out`, or leave it where it already is as asked for.

    Returns:
        What the job reports: rows per corpus, bytes, seconds, out.
    """
    for name in corpora:
        if name not in WRITERS:
            raise PrepareError(f"no scenes are written as {name!r}; write --corpora with {', '.join(WRITERS)}")
    started = time.monotonic()
    for name in corpora:
        settings = {"corpus": name, "rows": rows, "size": size, "seed": seed, "world": _fingerprint(world.TRAIN)}
        prepare_corpus(storage.join(out, name), settings, scene_seeds(name, rows, seed))
    return {
        "rows": dict.fromkeys(corpora, rows),
        "bytes": sum(_bytes_in(storage.join(out, name)) for name in corpora),
        "seconds": round(time.monotonic() - started, 1),
        "out": out,
    }


def prepare_corpus(folder: str, settings: dict[str, Any], seeds: range) -> None:
    """Write one corpus whole or not at all, unless it is there with the same settings.

    Raises:
        PrepareError: the folder holds something that this job did not write.
    """
    name, there = settings["corpus"], storage.names(folder)
    if MANIFEST in there and json.loads(storage.read_bytes(storage.join(folder, MANIFEST))) == settings:
        print(f"{name}: already in {folder} with these settings, kept", file=sys.stderr)
        return
    if there and MANIFEST not in there:
        raise PrepareError(f"{folder} was not written by this job; move it away or choose another --out")
    with storage.writing_folder(folder, last=MANIFEST) as draft:
        WRITERS[name](draft, _with_progress(name, seeds), settings["size"], world.TRAIN)
        (draft / MANIFEST).write_text(json.dumps(settings))


def scene_seeds(corpus: str, rows: int, seed: int) -> range:
    """The scenes of a corpus: block number `seed` of `rows` scenes in the corpus's own part of the training range."""
    start = world.TRAIN_SEEDS.start + list(WRITERS).index(corpus) * SEEDS_PER_CORPUS
    block = range(start + seed * rows, start + (seed + 1) * rows)
    if seed < 0 or block.stop > start + SEEDS_PER_CORPUS:
        most = SEEDS_PER_CORPUS // rows - 1
        raise PrepareError(f"--seed {seed} with --rows {rows} leaves the training range; write a seed of 0 to {most}")
    return block


def _with_progress(name: str, seeds: range) -> Iterator[int]:
    """The seeds one by one, telling on stderr about once in two seconds how far it is."""
    started = shown = time.monotonic()
    for done, seed in enumerate(seeds, start=1):
        yield seed
        now = time.monotonic()
        if now - shown > 2 or done == len(seeds):
            shown, speed = now, done / max(now - started, 1e-9)
            left = (len(seeds) - done) / speed
            print(f"{name:16s} {done:7d}/{len(seeds)}  {speed:6.0f} rows/s  left {left:.0f} s", file=sys.stderr)


def _fingerprint(scenes: world.World) -> str:
    """Changes when the stock of objects, colours or backgrounds does."""
    return hashlib.blake2b(repr(scenes).encode(), digest_size=8).hexdigest()


def _bytes_in(folder: str) -> int:
    files, inner = storage.filesystem(folder)
    return sum(info.size for info in files.get_file_info(fs.FileSelector(inner, recursive=True)) if info.is_file)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; write a whole number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prepare.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    scenes = commands.add_parser("scenes", help="write procedural scenes in the formats of published corpora")
    corpora = storage.join(storage.home(), "corpora")
    scenes.add_argument("--out", default=corpora, help="one folder per corpus is made here (default: %(default)s)")
    scenes.add_argument("--rows", type=_positive, default=5000, help="scenes per corpus (default: %(default)s)")
    scenes.add_argument("--size", type=_positive, default=64, help="pixels a side (default: %(default)s)")
    scenes.add_argument("--seed", type=int, default=0, help="another number draws other scenes (default: %(default)s)")
    scenes.add_argument("--corpora", default=",".join(WRITERS), help="which to write (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
