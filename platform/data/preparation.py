"""Prepare corpora for training: write procedural scenes as corpora, and convert corpora to shards.

Work that is finished is kept when a step is repeated.
"""

import functools
import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ray
from pyarrow import fs

from fireedit.platform import storage
from fireedit.platform.cluster import require_resources
from fireedit.platform.console import say
from fireedit.platform.data import catalog
from fireedit.platform.data.conversion import ConversionConfig, convert
from fireedit.platform.data.corpora import pairs
from fireedit.platform.data.shards import INDEX
from fireedit.platform.scenes.world import WORLDS, ScenesConfig, World

OWN_LICENSE = "its owner's"
SECONDS_PER_LINE = 2
"""Time between two lines of progress."""


class PrepareError(ValueError):
    """Names, numbers or folders that corpora cannot be prepared with."""


def prepare_scenes(
    out: str, names: Sequence[str], rows: int, size: int, seed: int, world: str = "train"
) -> dict[str, Any]:
    """Write scenes as each corpus under `out`, or keep what was written there with the same settings.

    Args:
        names: keys of `catalog.SCENE_FORMS`.
        seed: number of the block of `rows` scenes within the corpus's seeds.
        world: key of WORLDS; all but `train` are held out of training.
    Returns:
        Rows per corpus, bytes, seconds, out.
    """
    for name in names:
        if name not in catalog.SCENE_FORMS:
            known = ", ".join(catalog.SCENE_FORMS)
            raise PrepareError(f"no scenes are written as {name!r}; write --corpora with {known}")
    started, scenes = time.monotonic(), WORLDS[world]
    # Scenes of other objects, colors or backgrounds are not kept.
    stock = hashlib.blake2b(repr(scenes).encode(), digest_size=8).hexdigest()
    folders = {name: storage.join(out, name.partition(":")[0]) for name in names}
    for name, folder in folders.items():
        settings = {"corpus": name, "rows": rows, "size": size, "seed": seed, "world": world, "stock": stock}
        write_scenes(folder, settings, scene_seeds(name, rows, seed, scenes), catalog.SCENE_FORMS[name].write)
    return {
        "rows": dict.fromkeys(names, rows),
        "bytes": sum(_bytes_in(folder) for folder in folders.values()),
        "seconds": round(time.monotonic() - started, 1),
        "out": out,
    }


def write_scenes(folder: str, settings: Mapping[str, Any], seeds: range, write: catalog.Writer) -> None:
    """Write one corpus whole or not at all, unless it is there with the same settings.

    Raises:
        OSError: the folder holds something that was not written here.
    """
    name, present = settings["corpus"], storage.names(folder)
    manifest = storage.join(folder, catalog.MANIFEST)
    if catalog.MANIFEST in present and json.loads(storage.read_bytes(manifest)) == settings:
        say(f"{name}: already in {folder} with these settings, kept")
        return
    with storage.writing_folder(folder, last=catalog.MANIFEST) as draft:
        write(draft, _with_progress(name, seeds), settings["size"], WORLDS[settings["world"]])
        (draft / catalog.MANIFEST).write_text(json.dumps(settings))


def scene_seeds(name: str, rows: int, seed: int, world: World) -> range:
    """Return the seeds of block number `seed`, of `rows` scenes, within the corpus's part of the world's seeds."""
    seeds = catalog.SCENE_FORMS[name].seeds(world)
    if seed < 0 or (seed + 1) * rows > len(seeds):
        most = len(seeds) // rows - 1
        raise PrepareError(f"--seed {seed} with --rows {rows} leaves the corpus's range; write a seed of 0 to {most}")
    return seeds[seed * rows : (seed + 1) * rows]


def prepare_shards(
    corpora: str, out: str, names: Sequence[str], split: str = "train", config: ConversionConfig | None = None
) -> dict[str, Any]:
    """Convert each corpus CORPORA/NAME to shards OUT/NAME, or go on with them.

    Returns:
        Report of each corpus by its name, and out.
    """
    entries = [catalog.find(name) for name in names]
    reports = {entry.name: _convert(entry, storage.join(corpora, entry.name), out, split, config) for entry in entries}
    return {"corpora": reports, "out": out}


def prepare_pairs(
    folder: str, out: str, name: str, columns: Mapping[str, str], split: str, config: ConversionConfig
) -> dict[str, Any]:
    """Convert the edit pairs in `folder` to shards OUT/NAME; a mixture then draws from them by this name."""
    entry = catalog.CatalogEntry(name, functools.partial(pairs.read, corpus=name, columns=columns), OWN_LICENSE)
    return {"corpora": {name: _convert(entry, folder, out, split, config)}, "out": out}


def require_own_name(name: str) -> None:
    """Raise PrepareError for the name of a published corpus, and for one that no folder can have."""
    if name in catalog.CORPORA or not re.fullmatch(r"\w[\w.+-]*", name):
        taken = ", ".join(catalog.CORPORA)
        raise PrepareError(f"--corpora: found {name!r}; write one name of letters and digits that is none of {taken}")


def prepare_missing(home: str, mixture: Iterable[str], scenes: ScenesConfig | None, cpus_per_task: float) -> None:
    """Write scenes for the corpora of a mixture that are missing, and shards of those that have none.

    Corpora are written in parallel by Ray, which must be running. None for `scenes` asks for the real corpora.
    """
    corpora, shards = storage.join(home, "corpora"), storage.join(home, "shards")
    if scenes is None:
        return
    missing = [name for name in mixture if not storage.exists(storage.join(shards, name, INDEX))]
    for name in missing:
        catalog.find(name)
    absent = [name for name in missing if not storage.contents(storage.join(corpora, name))]
    if absent:
        require_resources([{"CPU": cpus_per_task}], "write a smaller cpus_per_task")
        write = ray.remote(num_cpus=cpus_per_task, max_retries=0)(prepare_scenes)
        ray.get([write.remote(corpora, [name], scenes.rows, scenes.size, seed=0) for name in absent])
    prepare_shards(corpora, shards, missing, config=ConversionConfig(size=scenes.size, cpus_per_task=cpus_per_task))


def _convert(
    entry: catalog.CatalogEntry, folder: str, out: str, split: str, config: ConversionConfig | None
) -> dict[str, Any]:
    report = convert(entry, folder, storage.join(out, entry.name), split, config)
    skipped = "".join(f"skipped {count} {reason}, " for reason, count in report.get("skipped", {}).items())
    say(
        f"{entry.name:16s} {report['kept']} of {report['read']} rows kept, {report['set_aside']} set aside, {skipped}"
        f"{report['bytes'] / 1e6:.1f} MB, {report['rows_per_s_per_core']:.0f} rows/s a core; {report['licence']}"
    )
    return report


def _with_progress(name: str, seeds: range) -> Iterator[int]:
    """Yield the seeds and print progress every SECONDS_PER_LINE and at the end."""
    started = shown = time.monotonic()
    for done, seed in enumerate(seeds, start=1):
        yield seed
        now = time.monotonic()
        if now - shown > SECONDS_PER_LINE or done == len(seeds):
            shown, speed = now, done / max(now - started, 1e-9)
            left = (len(seeds) - done) / speed
            say(f"{name:16s} {done:7d}/{len(seeds)}  {speed:6.0f} rows/s  left {left:.0f} s")


def _bytes_in(folder: str) -> int:
    files, inner = storage.filesystem(folder)
    return sum(info.size for info in files.get_file_info(fs.FileSelector(inner, recursive=True)) if info.is_file)
