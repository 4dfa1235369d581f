"""From a corpus as it is published to checked shards of one schema, part by part in Ray Data's workers.

A part that is finished is never done again: a conversion that was broken off goes on with the others.
"""

import dataclasses
import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data
from pydantic import PositiveFloat, PositiveInt, TypeAdapter

from fireedit.platform import images, storage
from fireedit.platform.data import catalog, shards
from fireedit.platform.data.corpora.rows import Corpus, Part
from fireedit.platform.data.sample import Sample

SETTINGS, REPORT, QUARANTINE = "settings.json", "report.json", "quarantine.parquet"
QUARANTINE_SCHEMA = pa.schema([("file", pa.string()), ("row", pa.string()), ("error", pa.string())])
JUDGED_ROWS = 1000
"""So many rows must have been read before a corpus is given up for its bad ones, unless it has ended."""


class TooManyBadRowsError(ValueError):
    """More of a corpus was set aside than the settings allow."""


class UnreadablePartError(OSError):
    """A file could not be read to its end, for it is damaged or its disk or server failed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    size: PositiveInt = 512
    """Pixels of a picture's shorter side, at the most."""
    quality: PositiveInt = 95
    """Of the JPEG that a scaled or lossless picture becomes; colours keep their full resolution."""
    max_bad_fraction: float = 0.01
    cpus_per_task: PositiveFloat = 1.0


@dataclasses.dataclass(frozen=True)
class SetAside:
    """A row that cannot be trained on."""

    file: str
    """The file or folder that was being read."""
    row: str
    """The sample's id."""
    error: str


@dataclasses.dataclass(frozen=True)
class PartReport:
    """What became of one part."""

    shards: list[shards.Shard]
    read: int
    set_aside: list[SetAside]
    core_seconds: float
    bytes: int
    """Of the shards."""
    peak_bytes: int
    """Most memory that the worker process ever held."""


def convert(
    name: str,
    corpora: str,
    root: str,
    split: str = "train",
    config: ConversionConfig | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Turn the corpus in CORPORA/NAME into shards under `root` and write their report; finished parts are kept.

    Args:
        tell: takes a line of progress after each part.
    Returns:
        The report: rows read, kept and set aside, bytes, licence, seconds, memory.
    Raises:
        CorpusError: the folder is not what its name says.
        ShardsError: the shards that lie there were made with other settings.
        TooManyBadRowsError, UnreadablePartError: the report is written, the index is not.
    """
    config, began, folder = config or ConversionConfig(), time.monotonic(), storage.join(corpora, name)
    corpus, world = catalog.open_corpus(name, folder, split), catalog.world_of(folder)
    parts, group = len(corpus.parts), shards.CAPTIONS_PER_GROUP if corpus.light else shards.ROWS_PER_GROUP
    settings = {"corpus": name, "split": split, "world": world, "parts": parts, "size": config.size}
    _require_settings(root, settings | {"quality": config.quality})
    if storage.exists(storage.join(root, shards.INDEX)):
        tell(f"{name}: its shards are finished, kept")
        return json.loads(storage.read_bytes(storage.join(root, REPORT)))
    done = _finished_parts(root)
    kept, todo = len(done), [number for number in range(parts) if number not in done]
    failures = []
    for number, failure in _convert_parts(corpus, folder, root, config, group, todo):
        if failure:
            failures.append(failure)
            tell(f"{name}: {failure}")
            continue
        done[number] = _read_part_report(root, number)
        tell(_progress(name, done, kept, parts, time.monotonic() - began))
        if _too_many(done, config) and sum(report.read for report in done.values()) >= JUDGED_ROWS:
            break
    reports = [done[number] for number in sorted(done)]
    unique, twice = _without_duplicates(root, [shard for report in reports for shard in report.shards], group)
    set_aside = [row for report in reports for row in report.set_aside] + twice
    report = _write_report(name, root, unique, reports, set_aside, time.monotonic() - began)
    if _too_many(done, config):
        raise TooManyBadRowsError(
            f"{name}: {len(set_aside)} of {report['read']} rows were set aside, more than max_bad_fraction "
            f"{config.max_bad_fraction}; see {storage.join(root, QUARANTINE)}, mend the corpus or allow more"
        )
    if failures:
        raise UnreadablePartError(
            f"{name}: {len(failures)} of {parts} parts could not be read, first {failures[0]}; "
            "mend that and run again: the others are kept"
        )
    shards.write_index(root, shards.Index(name, split, world, unique, rows_per_group=group))
    return report


def prepared_row(sample: Sample, config: ConversionConfig) -> shards.Row:
    """A sample as a row of a shard: pictures checked, no larger than needed, the target as large as its source.

    A JPEG that is small enough keeps its bytes.

    Raises:
        ImageError: a picture is damaged.
    """
    row = sample.row()
    del row["error"]
    if sample.source:
        row["source"], size = _scaled(sample.source, config, None)
        if sample.target == sample.source:
            row["target"] = row["source"]
        elif sample.target:
            row["target"], _ = _scaled(sample.target, config, size)
    return row


def _scaled(data: bytes, config: ConversionConfig, size: tuple[int, int] | None) -> tuple[bytes, tuple[int, int]]:
    """A picture of width and height `size`, or as the config says; returns these too."""
    image = images.decode(data, draft=config.size)
    if size is None:
        height, width = image.shape[:2]
        scale = min(1.0, config.size / min(height, width))
        size = round(width * scale), round(height * scale)
    if images.plain_jpeg_size(data) == size:
        return data, size
    return images.encode_jpeg(images.resize(image, *size), config.quality), size


def _convert_parts(
    corpus: Corpus, folder: str, root: str, config: ConversionConfig, group: int, todo: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Convert the parts of these numbers, as many at a time as there are cores for; yields each, and why it failed."""
    if todo:
        parts = {number: ray.put(corpus.parts[number]) for number in todo}
        convert_part = _ConvertPart(corpus.read_part, parts, folder, root, config, group)
        numbers = ray.data.from_items(list(todo), override_num_blocks=len(todo))
        for row in numbers.map(convert_part, num_cpus=config.cpus_per_task).iter_rows():
            yield row["item"], row["failure"]


class _ConvertPart:
    """Reads, checks, scales and writes one part; its report, written last, says that it is finished."""

    def __init__(
        self,
        read_part: Callable[[Part], Iterator[Sample]],
        parts: Mapping[int, ray.ObjectRef],
        folder: str,
        root: str,
        config: ConversionConfig,
        group: int,
    ):
        self.read_part, self.parts, self.folder, self.root = read_part, parts, folder, root
        self.config, self.group = config, group

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            self._convert(int(row["item"]))
            return row | {"failure": ""}
        except OSError as error:
            return row | {"failure": str(error)}

    def _convert(self, number: int) -> None:
        began, part = time.process_time(), ray.get(self.parts[number])
        file = part if isinstance(part, str) else self.folder
        read, size = 0, 0
        written: list[shards.Shard] = []
        set_aside: list[SetAside] = []

        def good_rows() -> Iterator[shards.Row]:
            nonlocal read
            for sample in self.read_part(part):
                read += 1
                try:
                    if not sample.error:
                        yield prepared_row(sample, self.config)
                except images.ImageError as error:
                    set_aside.append(SetAside(file, sample.id, str(error)))
                if sample.error:
                    set_aside.append(SetAside(file, sample.id, sample.error))

        for rows in shards.batched(good_rows(), shards.GROUPS_PER_SHARD * self.group):
            written.append(shards.Shard(f"{number:06d}-{len(written):03d}", len(rows)))
            path = shards.path_of(self.root, written[-1].name)
            size += shards.write_table(path, shards.SCHEMA, rows, self.group)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        report = PartReport(written, read, set_aside, time.process_time() - began, size, peak)
        storage.write_bytes(_report_path(self.root, number), json.dumps(dataclasses.asdict(report)).encode())


def _without_duplicates(
    root: str, written: Sequence[shards.Shard], group: int
) -> tuple[list[shards.Shard], list[SetAside]]:
    """The shards, one that repeats an id exchanged for one without that row; and the rows that went."""
    seen: set[str] = set()
    unique: list[shards.Shard] = []
    twice: list[SetAside] = []
    for shard in written:
        kept: list[tuple[int, str]] = []
        here: list[tuple[int, str]] = []
        for row, name in enumerate(shards.read_ids(root, shard.name)):
            (here if name in seen else kept).append((row, name))
            seen.add(name)
        if here:
            twice += [SetAside(shards.path_of(root, shard.name), name, "this id came before") for _, name in here]
            rows, shard = list(shards.iter_rows(root, shard.name)), shards.Shard(f"{shard.name}-unique", len(kept))
            shards.write_table(shards.path_of(root, shard.name), shards.SCHEMA, [rows[row] for row, _ in kept], group)
        if kept:
            unique.append(shard)
    return unique, twice


def _write_report(
    name: str,
    root: str,
    unique: Sequence[shards.Shard],
    reports: Sequence[PartReport],
    set_aside: Sequence[SetAside],
    seconds: float,
) -> dict[str, Any]:
    read, busy = sum(report.read for report in reports), sum(report.core_seconds for report in reports)
    report = {
        "corpus": name,
        "licence": catalog.CORPORA[name].license,
        "read": read,
        "kept": sum(shard.rows for shard in unique),
        "set_aside": len(set_aside),
        "shards": len(unique),
        "bytes": sum(report.bytes for report in reports),
        "seconds": round(seconds, 1),
        "core_seconds": round(busy, 1),
        "rows_per_s_per_core": round(read / max(busy, 1e-9), 1),
        "peak_worker_bytes": max((report.peak_bytes for report in reports), default=0),
    }
    rows = [dataclasses.asdict(row) for row in set_aside]
    shards.write_table(storage.join(root, QUARANTINE), QUARANTINE_SCHEMA, rows)
    storage.write_bytes(storage.join(root, REPORT), json.dumps(report, indent=1).encode())
    return report


def _require_settings(root: str, settings: dict[str, Any]) -> None:
    """Refuse to go on where shards lie that were made in another way; else leave a note of how these are."""
    path = storage.join(root, SETTINGS)
    if not storage.exists(path):
        storage.write_bytes(path, json.dumps(settings).encode())
        return
    found = json.loads(storage.read_bytes(path))
    for key, value in settings.items():
        if found.get(key) != value:
            raise shards.ShardsError(
                f"{root}: the shards there were made with {key} {found.get(key)!r}, not {value!r}; "
                "write another --out or remove the folder"
            )


def _finished_parts(root: str) -> dict[int, PartReport]:
    names = storage.names(storage.join(root, shards.PARTS))
    numbers = [int(name.removesuffix(".json")) for name in names if name.endswith(".json")]
    return {number: _read_part_report(root, number) for number in numbers}


def _read_part_report(root: str, number: int) -> PartReport:
    return TypeAdapter(PartReport).validate_json(storage.read_bytes(_report_path(root, number)))


def _report_path(root: str, number: int) -> str:
    return storage.join(root, shards.PARTS, f"{number:06d}.json")


def _too_many(done: dict[int, PartReport], config: ConversionConfig) -> bool:
    bad = sum(len(report.set_aside) for report in done.values())
    return bad > config.max_bad_fraction * sum(report.read for report in done.values())


def _progress(name: str, done: dict[int, PartReport], kept: int, parts: int, seconds: float) -> str:
    """`cocostuff        part   12/231    6144 rows, 3 set aside  1210 rows/s  left 95 s`"""
    read, bad = sum(report.read for report in done.values()), sum(len(report.set_aside) for report in done.values())
    fresh = list(done.values())[kept:]
    left = seconds / len(fresh) * (parts - len(done))
    return (
        f"{name:16s} part {len(done):4d}/{parts}  {read:8d} rows, {bad} set aside"
        f"  {sum(report.read for report in fresh) / seconds:6.0f} rows/s  left {left:.0f} s"
    )
