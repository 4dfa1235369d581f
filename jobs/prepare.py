"""Prepare corpora for training.

`prepare.py scenes` writes procedural scenes in the formats of the published corpora. `prepare.py shards` turns corpora,
these or the real ones, into the checked shards that training reads. A command that is repeated keeps what is finished.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import functools
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from pyarrow import fs
from pydantic import PositiveInt

from fireedit.jobs.training.encoders import ENCODERS
from fireedit.platform import storage
from fireedit.platform.cluster import start_ray
from fireedit.platform.data.catalog import CORPORA, MANIFEST, UnknownCorpusError, seed_range
from fireedit.platform.data.conversion import ConversionConfig, TooManyBadRowsError, convert
from fireedit.platform.data.corpora.rows import CorpusError
from fireedit.platform.data.encoding import EncodersConfig, encode
from fireedit.platform.data.shards import INDEX, ShardsError
from fireedit.platform.scenes.assets import MissingAssetsError
from fireedit.platform.scenes.world import WORLDS, World
from fireedit.platform.scenes.writers import (
    cc12m,
    cocostuff,
    emu_edit,
    grefcoco,
    instructpix2pix,
    llava_instruct,
    magicbrush,
    reasonedit,
    refcoco,
    ultraedit,
)


class Writer(Protocol):
    """Writes scenes into a folder as the files of one published corpus."""

    def __call__(self, folder: pathlib.Path, seeds: Iterator[int], size: int, world: World) -> None: ...


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
"""The training corpora, each in the form that most people have."""

OTHER_FORMS: dict[str, Writer] = {
    "cc12m:tars": cc12m.write_webdataset,
    "instructpix2pix:folders": instructpix2pix.write_folders,
    "instructpix2pix:zips": instructpix2pix.write_zips,
    "cocostuff:json": cocostuff.write_json,
    "magicbrush:test": magicbrush.write_folder,
    "reasonedit:test": reasonedit.write_benchmark,
    "emu_edit": emu_edit.write,
    "emu_edit:generations": functools.partial(emu_edit.write, generations=True),
}
"""CORPUS:FORM, their other forms and the test sets; the folder is called CORPUS all the same."""


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """Procedural scenes that stand in for corpora which a recipe draws from and nobody has."""

    rows: PositiveInt
    """Scenes per corpus."""
    size: PositiveInt
    """Pixels a side."""


class PrepareError(ValueError):
    """Arguments or folders that this job cannot work with."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    names = args.corpora.split(",")
    try:
        if args.command == "scenes":
            report = prepare_scenes(args.out, names, args.rows, args.size, args.seed, args.world)
        else:
            start_ray()
            config = ConversionConfig(
                size=args.size,
                quality=args.quality,
                max_bad_fraction=args.max_bad_fraction,
                cpus_per_task=args.cpus_per_task,
            )
            report = prepare_shards(args.source, args.out, names, args.split, config)
            if args.encode:
                encoders = EncodersConfig(
                    count=args.encoders, gpus=args.gpus, cpus=args.cpus_per_task, cpus_per_task=args.cpus_per_task
                )
                report |= encode_shards(args.out, names, args.encode.split(","), args.model, args.weights, encoders)
    except (
        PrepareError,
        MissingAssetsError,
        UnknownCorpusError,
        CorpusError,
        ShardsError,
        TooManyBadRowsError,
        OSError,
    ) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


def prepare_shards(
    corpora: str, out: str, names: Sequence[str], split: str = "train", config: ConversionConfig | None = None
) -> dict[str, Any]:
    """Turn each corpus under `corpora` into shards under `out`, or go on with them.

    Returns:
        What the job reports: each corpus's report by its name, and out.
    """
    reports = {name: convert(name, corpora, storage.join(out, name), split, config, say) for name in names}
    for name, report in reports.items():
        say(
            f"{name:16s} {report['kept']} of {report['read']} rows kept, {report['set_aside']} set aside, "
            f"{report['bytes'] / 1e6:.1f} MB, {report['rows_per_s_per_core']:.0f} rows/s a core; {report['licence']}"
        )
    return {"corpora": reports, "out": out}


def encode_shards(
    out: str, names: Sequence[str], encoders: Sequence[str], model: str, weights: str, config: EncodersConfig
) -> dict[str, Any]:
    """Store what frozen encoders make of the shards under `out` beside them, or go on with it."""
    for name in encoders:
        if name not in ENCODERS:
            raise PrepareError(f"--encode: found {name!r}; write {' or '.join(ENCODERS)}, or both with a comma")
    if not weights:
        raise PrepareError("--encode needs --weights FOLDER, a saved pipeline that holds the encoders")
    reports: dict[str, Any] = {}
    for kind in encoders:
        encoder = ENCODERS[kind](model, weights)
        for name in names:
            how = (encoder.fingerprint, encoder.columns, encoder.load, encoder.make, config, say)
            reports[f"{name}/{kind}"] = encode(storage.join(out, name), kind, *how)
    return {"encoded": reports}


def prepare_scenes(
    out: str, names: Sequence[str], rows: int, size: int, seed: int, world: str = "train"
) -> dict[str, Any]:
    """Write each corpus under `out`, or leave it where it already is as asked for.

    Args:
        names: of WRITERS and OTHER_FORMS.
        world: of WORLDS; all but `train` are held out of training.
    Returns:
        What the job reports: rows per corpus, bytes, seconds, out.
    """
    writers = WRITERS | OTHER_FORMS
    for name in names:
        if name not in writers:
            raise PrepareError(f"no scenes are written as {name!r}; write --corpora with {', '.join(writers)}")
    started, scenes = time.monotonic(), WORLDS[world]
    folders = {name: storage.join(out, name.partition(":")[0]) for name in names}
    for name, folder in folders.items():
        settings = {"corpus": name, "rows": rows, "size": size, "seed": seed, "world": world}
        settings |= {"stock": _fingerprint(scenes)}
        prepare_corpus(folder, settings, scene_seeds(name, rows, seed, scenes), scenes)
    return {
        "rows": dict.fromkeys(names, rows),
        "bytes": sum(_bytes_in(folder) for folder in folders.values()),
        "seconds": round(time.monotonic() - started, 1),
        "out": out,
    }


def prepare_corpus(folder: str, settings: dict[str, Any], seeds: range, scenes: World) -> None:
    """Write one corpus whole or not at all, unless it is there with the same settings.

    Raises:
        PrepareError: the folder holds something that this job did not write.
    """
    name, there = settings["corpus"], storage.names(folder)
    if MANIFEST in there and json.loads(storage.read_bytes(storage.join(folder, MANIFEST))) == settings:
        say(f"{name}: already in {folder} with these settings, kept")
        return
    if there and MANIFEST not in there:
        raise PrepareError(f"{folder} was not written by this job; move it away or choose another --out")
    with storage.writing_folder(folder, last=MANIFEST) as draft:
        (WRITERS | OTHER_FORMS)[name](draft, _with_progress(name, seeds), settings["size"], scenes)
        (draft / MANIFEST).write_text(json.dumps(settings))


def scene_seeds(name: str, rows: int, seed: int, world: World) -> range:
    """The scenes of a corpus: block number `seed` of `rows` scenes in the corpus's own part of the world's range."""
    seeds = seed_range(name, world.seeds)
    block = range(seeds.start + seed * rows, seeds.start + (seed + 1) * rows)
    if seed < 0 or block.stop > seeds.stop:
        most = len(seeds) // rows - 1
        raise PrepareError(f"--seed {seed} with --rows {rows} leaves the corpus's range; write a seed of 0 to {most}")
    return block


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _with_progress(name: str, seeds: range) -> Iterator[int]:
    """The seeds one by one, telling on stderr about once in two seconds how far it is."""
    started = shown = time.monotonic()
    for done, seed in enumerate(seeds, start=1):
        yield seed
        now = time.monotonic()
        if now - shown > 2 or done == len(seeds):
            shown, speed = now, done / max(now - started, 1e-9)
            left = (len(seeds) - done) / speed
            say(f"{name:16s} {done:7d}/{len(seeds)}  {speed:6.0f} rows/s  left {left:.0f} s")


def _fingerprint(scenes: World) -> str:
    """Changes when the stock of objects, colours or backgrounds does."""
    return hashlib.blake2b(repr(scenes).encode(), digest_size=8).hexdigest()


def _bytes_in(folder: str) -> int:
    files, inner = storage.filesystem(folder)
    return sum(info.size for info in files.get_file_info(fs.FileSelector(inner, recursive=True)) if info.is_file)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; write a whole number above 0")
    return int(text)


def prepare_missing(home: str, mixture: Iterable[str], scenes: ScenesConfig | None, cpus_per_task: float) -> None:
    """Write scenes for the corpora of a mixture that are not there, and shards of those that have none.

    Corpora are written side by side by Ray, which must be running. None for `scenes` asks for the real ones.
    """
    corpora, shards = storage.join(home, "corpora"), storage.join(home, "shards")
    if scenes is None:
        return
    missing = [name for name in mixture if not storage.exists(storage.join(shards, name, INDEX))]
    bare = [name for name in missing if not storage.names(storage.join(corpora, name))]
    if bare:
        write = ray.remote(num_cpus=cpus_per_task, max_retries=0)(prepare_scenes)
        ray.get([write.remote(corpora, [name], scenes.rows, scenes.size, seed=0) for name in bare])
    prepare_shards(corpora, shards, missing, config=ConversionConfig(size=scenes.size, cpus_per_task=cpus_per_task))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    corpora, default = storage.join(storage.home(), "corpora"), " (default: %(default)s)"

    scenes = commands.add_parser("scenes", help="write procedural scenes in the formats of published corpora")
    scenes.add_argument("--out", default=corpora, help="one folder per corpus is made here" + default)
    scenes.add_argument("--rows", type=_positive, default=5000, help="scenes per corpus" + default)
    scenes.add_argument("--size", type=_positive, default=64, help="pixels a side" + default)
    scenes.add_argument("--seed", type=int, default=0, help="another number draws other scenes" + default)
    scenes.add_argument("--corpora", default=",".join(WRITERS), help=f"of {','.join(WRITERS | OTHER_FORMS)}" + default)
    scenes.add_argument("--world", choices=list(WORLDS), default="train", help="all others are held out" + default)

    shards = commands.add_parser("shards", help="turn corpora into the checked shards that training reads")
    shards.add_argument("--source", default=corpora, help="holds one folder per corpus" + default)
    shards.add_argument("--out", default=storage.join(storage.home(), "shards"), help="likewise" + default)
    shards.add_argument("--corpora", default=",".join(WRITERS), help=f"of {','.join(CORPORA)}" + default)
    shards.add_argument("--split", default="train", help="as the corpus calls it" + default)
    shards.add_argument("--size", type=_positive, default=512, help="most pixels of the shorter side" + default)
    shards.add_argument("--quality", type=_positive, default=95, help="of re-encoded JPEGs" + default)
    shards.add_argument("--max-bad-fraction", type=float, default=0.01, help="more bad rows stop the job" + default)
    shards.add_argument("--cpus-per-task", type=float, default=1.0, help="logical CPUs of a task" + default)
    shards.add_argument("--encode", default="", help="latents, text or both with a comma: stored with the shards")
    shards.add_argument("--model", choices=("nano", "paper"), default="paper", help="whose sizes" + default)
    shards.add_argument("--weights", default="", help="pipeline folder that holds VAE and text encoder")
    shards.add_argument("--encoders", type=_positive, default=1, help="encoders at a time" + default)
    shards.add_argument("--gpus", type=float, default=0.0, help="GPUs of each encoder" + default)
    return parser


if __name__ == "__main__":
    sys.exit(main())
