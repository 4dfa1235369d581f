"""CC12M from scenes: `cc12m.tsv`, a url and a caption a line without a header, or the tars of img2dataset."""

import collections
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fireedit.platform import images
from fireedit.platform.data.shards import batched
from fireedit.platform.scenes import families, language
from fireedit.platform.scenes.edits import Edit
from fireedit.platform.scenes.render import draw_scene
from fireedit.platform.scenes.world import World

SAMPLES_PER_TAR = 10_000
CAPTION_EVERY = 8
"""Period, in pairs of seeds, of alt texts that are captions; the others are instructions."""
GONE_EVERY = 10
"""Period, in seeds, of urls that did not answer: listed in the parquet file, missing in the tar."""
GONE = "HTTP Error 404: Not Found"
SIZES = ("width", "height", "original_width", "original_height")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("caption", "url", "key", "status", "error_message")]
    + [(name, pa.int64()) for name in SIZES]
    + [(name, pa.string()) for name in ("exif", "sha256")]
)
"""Columns of the parquet files, and keys of KEY.json."""


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """Write one alt text per seed; `size` is not used, there are no pictures."""
    with (folder / "cc12m.tsv").open("w", encoding="utf-8") as file:
        for seed in seeds:
            file.write(f"{_url(seed)}\t{_alt_text(families.training_edit(world, seed), seed)}\n")


def write_webdataset(
    folder: Path, seeds: Iterable[int], size: int, world: World, *, samples_per_tar: int = SAMPLES_PER_TAR
) -> None:
    """Write the same texts with pictures `size` pixels square: NNNNN.tar, NNNNN.parquet and NNNNN_stats.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, shard_seeds in enumerate(batched(seeds, samples_per_tar)):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            records = [
                _write_sample(tar, f"{shard:05d}{index:04d}", seed, size, world)
                for index, seed in enumerate(shard_seeds)
            ]
        pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(_stats(records), indent=4))


def _write_sample(tar: tarfile.TarFile, key: str, seed: int, size: int, world: World) -> dict[str, Any]:
    """Write the members of one sample to the tar, in img2dataset's order; returns its row of the parquet file."""
    edit = families.training_edit(world, seed)
    caption = _alt_text(edit, seed)
    record = dict.fromkeys(SCHEMA.names) | {"caption": caption, "url": _url(seed), "key": key}
    if seed % GONE_EVERY == GONE_EVERY - 1:
        return record | {"status": "failed_to_download", "error_message": GONE}
    picture = images.encode_jpeg(draw_scene(edit.target if seed % 2 else edit.source, size).image)
    result = {"status": "success", "exif": "{}", "sha256": hashlib.sha256(picture).hexdigest()}
    record |= result | dict.fromkeys(SIZES, size)
    members = {"jpg": picture, "json": json.dumps(record, indent=4).encode(), "txt": caption.encode()}
    for suffix, data in members.items():
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return record


def _stats(records: list[dict[str, Any]]) -> dict[str, Any]:
    counts = collections.Counter(record["status"] for record in records)
    return {
        "count": len(records),
        "successes": counts["success"],
        "failed_to_download": counts["failed_to_download"],
        "failed_to_resize": 0,
        "duration": 0.0,
        "status_dict": dict(collections.Counter(record["error_message"] or record["status"] for record in records)),
    }


def _alt_text(edit: Edit, seed: int) -> str:
    """Return a caption of the scene before or after an edit or, for most seeds, the instruction itself.

    With instructions among the alt texts, stage 1 aligns edit tokens to instructions, too.
    """
    if seed // 2 % CAPTION_EVERY:
        return edit.instruction
    return language.caption(edit.target if seed % 2 else edit.source, seed)


def _url(seed: int) -> str:
    return f"https://example.invalid/{seed}.jpg"
