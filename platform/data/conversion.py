"""Conversion of a published corpus to checked shards of one schema, part by part in Ray Data's workers.

Finished parts are kept: a conversion that was interrupted goes on with the others.
"""

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

import pyarrow as pa
import ray.data
from pydantic import PositiveInt, TypeAdapter

from fireedit.platform import images, processes, storage
from fireedit.platform.cluster import require_resources
from fireedit.platform.config import LogicalCPUs, Ratio
from fireedit.platform.console import say
from fireedit.platform.data import catalog, shards
from fireedit.platform.data.catalog import CatalogEntry
from fireedit.platform.data.corpora.rows import Corpus, CorpusPart, Skip
from fireedit.platform.data.sample import Sample
from fireedit.platform.data.shards import Shard
from fireedit.platform.images import EncodedImage

ASPECT_TOLERANCE = 0.03
"""Share of a side by which the aspects of source and target may differ: editors round sides to multiples of 8 or 16."""
SETTINGS, REPORT, QUARANTINE = "settings.json", "report.json", "quarantine.parquet"
QUARANTINE_SCHEMA = pa.schema(
    [("file", pa.string()), ("row", pa.string()), ("error", pa.string()), ("number", pa.int64())]
)


class TooManyBadRowsError(ValueError):
    """A larger fraction of a corpus was set aside than the settings allow."""


class UnreadablePartError(OSError):
    """A file could not be read to its end: it is damaged, or its disk or server failed."""


class AspectError(ValueError):
    """A target has another aspect than its source, so that scaling would squash it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    size: PositiveInt = 512
    """Upper bound of a picture's shorter side, pixels."""
    quality: PositiveInt = 95
    """JPEG quality of scaled and lossless pictures; colors keep their full resolution."""
    max_bad_fraction: Ratio = 0.01
    judge_after: PositiveInt = 1000
    """Rows read before a corpus is given up for its bad ones; a smaller corpus is read to its end first."""
    cpus_per_task: LogicalCPUs = 1.0


@dataclasses.dataclass(frozen=True)
class SetAside:
    """Row that cannot be trained on, and the reason."""

    file: str
    """File or folder that was being read."""
    row: str
    """Id of the sample."""
    error: str
    number: int = 0
    """Line of the file, or row of a parquet file, from 1; 0 where the reader does not tell it."""


@dataclasses.dataclass
class PartReport:
    """Result of one part."""

    shards: list[Shard] = dataclasses.field(default_factory=list)
    read: int = 0
    set_aside: list[SetAside] = dataclasses.field(default_factory=list)
    core_seconds: float = 0.0
    bytes: int = 0
    """Size of the shards."""
    peak_bytes: int = 0
    """Peak memory of the worker process."""
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    """Entries that hold no sample by the corpus's own format, or no data at all, counted by reason."""


def convert(
    entry: CatalogEntry, folder: str, root: str, split: str = "train", config: ConversionConfig | None = None
) -> dict[str, Any]:
    """Convert the corpus in `folder` to shards under `root` and write their report; finished parts are kept.

    Returns:
        The report: rows read, kept and set aside, bytes, license, seconds, memory.
    Raises:
        CorpusError: the folder is not what its name says.
        ShardsError: the shards under `root` were made with other settings.
        ResourcesError: a task takes more CPUs than any node has.
        TooManyBadRowsError, UnreadablePartError: the report is written, the index is not.
    """
    began, config, name = time.monotonic(), config or ConversionConfig(), entry.name
    corpus, world = entry.read(folder, split), catalog.world_of(folder)
    settings = {"corpus": name, "split": split, "world": world, "parts": len(corpus.parts), "size": config.size}
    _require_settings(root, settings | {"quality": config.quality, **corpus.settings})
    if storage.exists(storage.join(root, shards.INDEX)):
        say(f"{name}: its shards are finished, kept")
        return json.loads(storage.read_bytes(storage.join(root, REPORT)))
    group = shards.CAPTIONS_PER_GROUP if corpus.light else shards.ROWS_PER_GROUP
    done, failures = _convert_parts(entry, corpus, folder, root, config, group)
    unique, repeated = _without_duplicates(root, [shard for report in done for shard in report.shards], group)
    report = _write_report(entry, root, corpus.skipped, done, unique, repeated, time.monotonic() - began)
    if _too_many(done, config):
        raise TooManyBadRowsError(
            f"{name}: {report['set_aside']} of {report['read']} rows were set aside, more than max_bad_fraction "
            f"{config.max_bad_fraction}; see {storage.join(root, QUARANTINE)}, mend the corpus or allow more"
        )
    if failures:
        raise UnreadablePartError(
            f"{name}: {len(failures)} of {len(corpus.parts)} parts could not be read, first {failures[0]}; "
            "mend that and run again: the others are kept"
        )
    shards.write_index(root, shards.Index(name, split, world, unique, rows_per_group=group))
    return report


def scale_pictures(sample: Sample, config: ConversionConfig, any_aspect: bool = False) -> Sample:
    """Check a sample's pictures and scale them: no larger than the config says, the target as large as its source.

    A JPEG that is small enough keeps its bytes.

    Args:
        any_aspect: squash a target of another aspect, which is an error otherwise.
    Raises:
        ImageError: a picture is damaged.
        AspectError: the aspects of source and target differ by more than rounding.
    """
    if not sample.source:
        return sample
    if sample.target and not any_aspect:
        _check_aspects(*(images.header(data).size for data in (sample.source, sample.target)))
    source, size = _scale(sample.source, config, None)
    target = sample.target
    if target:
        target = source if target == sample.source else _scale(target, config, size)[0]
    return dataclasses.replace(sample, source=source, target=target)


def _check_aspects(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Raise AspectError if the larger, scaled to a side of the smaller, is off too much at the other."""
    (width, height), (wide, high) = sorted((source, target), key=lambda size: size[0] * size[1])
    off = min(abs(wide * height / high - width) / width, abs(high * width / wide - height) / height)
    if off > max(ASPECT_TOLERANCE, 1 / min(width, height)):
        sizes = "found a target of {} x {} pixels for a source of {} x {}".format(*target, *source)
        raise AspectError(f"{sizes}; crop one to the aspect of the other")


def _scale(
    data: EncodedImage, config: ConversionConfig, size: tuple[int, int] | None
) -> tuple[EncodedImage, tuple[int, int]]:
    """Scale a picture to width and height `size`, or as the config says; returns these too."""
    image = images.decode(data, draft=config.size)
    if size is None:
        height, width = image.shape[:2]
        scale = min(1.0, config.size / min(height, width))
        size = round(width * scale), round(height * scale)
    if images.plain_jpeg_size(data) == size:
        return data, size
    return images.encode_jpeg(images.resize(image, *size), config.quality), size


def _convert_parts(
    entry: CatalogEntry, corpus: Corpus, folder: str, root: str, config: ConversionConfig, group: int
) -> tuple[list[PartReport], list[str]]:
    """Convert the parts that are not finished yet, until all are done or too many rows are bad.

    Returns:
        The reports of all finished parts in their order, and the errors of those that could not be read.
    """
    began, done, failures, name = time.monotonic(), _finished_parts(root), list[str](), entry.name
    first = len(done)
    todo = {number: ray.put(part) for number, part in enumerate(corpus.parts) if number not in done}
    converter = _PartConverter(corpus.read_part, todo, folder, root, config, group, entry.any_aspect)
    for number, failure in converter.in_parallel():
        if failure:
            failures.append(failure)
            say(f"{name}: {failure}")
            continue
        done[number] = _read_part_report(root, number)
        reports = list(done.values())
        say(_progress(name, reports, first, len(corpus.parts), time.monotonic() - began))
        if _too_many(reports, config) and _rows_read(reports) >= config.judge_after:
            break
    return [done[number] for number in sorted(done)], failures


@dataclasses.dataclass(frozen=True, eq=False)
class _PartConverter:
    """Reads, checks, scales and writes one part; its report, written last, marks it as finished."""

    read_part: Callable[[CorpusPart], Iterator[Sample | Skip]]
    parts: Mapping[int, ray.ObjectRef]
    folder: str
    root: str
    config: ConversionConfig
    group: int
    any_aspect: bool

    def in_parallel(self) -> Iterator[tuple[int, str]]:
        """Convert the parts in parallel on the cores that are free; yields each part's number and error, or ""."""
        if self.parts:
            require_resources([{"CPU": self.config.cpus_per_task}], "write a smaller cpus_per_task")
            numbers = ray.data.from_items(list(self.parts), override_num_blocks=len(self.parts))
            for row in numbers.map(self, num_cpus=self.config.cpus_per_task).iter_rows():
                yield row["item"], row["failure"]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            self._convert(int(row["item"]))
        except OSError as error:
            return row | {"failure": str(error)}
        return row | {"failure": ""}

    def _convert(self, number: int) -> None:
        began, report, part = time.process_time(), PartReport(), ray.get(self.parts[number])
        checked = self._check(self.read_part(part), part if isinstance(part, str) else self.folder, report)
        for samples in shards.batched(checked, shards.GROUPS_PER_SHARD * self.group):
            report.shards.append(Shard(f"{number:06d}-{len(report.shards):03d}", len(samples)))
            report.bytes += shards.write_samples(self.root, report.shards[-1].name, samples, self.group)
        report.peak_bytes = processes.peak_bytes()
        report.core_seconds = time.process_time() - began
        storage.write_bytes(_report_path(self.root, number), json.dumps(dataclasses.asdict(report)).encode())

    def _check(self, samples: Iterable[Sample | Skip], file: str, report: PartReport) -> Iterator[Sample]:
        """Yield the good samples, scaled; the report counts all and lists the bad ones."""
        for sample in samples:
            if isinstance(sample, Skip):
                report.skipped[sample.reason] = report.skipped.get(sample.reason, 0) + sample.count
                continue
            report.read += 1
            try:
                scaled, error = scale_pictures(sample, self.config, self.any_aspect), sample.error
            except (images.ImageError, AspectError) as bad:
                error = str(bad)
            if error:
                where, number = sample.read_from
                report.set_aside.append(SetAside(where or file, sample.id, error, number))
            else:
                yield scaled


def _without_duplicates(root: str, written: Sequence[Shard], group: int) -> tuple[list[Shard], list[SetAside]]:
    """Replace every shard that repeats an id by one without that row; returns the shards and the dropped rows."""
    seen: set[str] = set()
    unique: list[Shard] = []
    repeated: list[SetAside] = []
    for shard in written:
        is_fresh = []
        for name in shards.read_ids(root, shard.name):
            is_fresh.append(name not in seen)
            if name in seen:
                repeated.append(SetAside(shards.path_of(root, shard.name), name, "this id came before"))
            seen.add(name)
        if not all(is_fresh):
            samples = compress(shards.iter_samples(root, shard.name), is_fresh)
            shard = Shard(f"{shard.name}-unique", sum(is_fresh))
            shards.write_samples(root, shard.name, samples, group)
        if shard.rows:
            unique.append(shard)
    return unique, repeated


def _write_report(
    entry: CatalogEntry,
    root: str,
    skipped: Mapping[str, int],
    reports: Sequence[PartReport],
    unique: Sequence[Shard],
    repeated: Sequence[SetAside],
    seconds: float,
) -> dict[str, Any]:
    read, busy = _rows_read(reports), sum(report.core_seconds for report in reports)
    set_aside = [row for report in reports for row in report.set_aside] + [*repeated]
    report = {
        "corpus": entry.name,
        "licence": entry.license,
        "read": read,
        "kept": sum(shard.rows for shard in unique),
        "set_aside": len(set_aside),
        "skipped": dict(sum((Counter(report.skipped) for report in reports), Counter(skipped))),
        "shards": len(unique),
        "bytes": sum(report.bytes for report in reports),
        "seconds": round(seconds, 1),
        "core_seconds": round(busy, 1),
        "rows_per_s_per_core": round(read / max(busy, 1e-9), 1),
        "peak_worker_bytes": max((report.peak_bytes for report in reports), default=0),
    }
    shards.write_table(storage.join(root, QUARANTINE), QUARANTINE_SCHEMA, map(dataclasses.asdict, set_aside))
    storage.write_bytes(storage.join(root, REPORT), json.dumps(report, indent=1).encode())
    return report


def _require_settings(root: str, settings: dict[str, Any]) -> None:
    """Record the settings under `root`; shards that were made with others there are an error."""
    path = storage.join(root, SETTINGS)
    if not storage.exists(path):
        storage.write_bytes(path, json.dumps(settings).encode())
        return
    recorded = json.loads(storage.read_bytes(path))
    for key, value in settings.items():
        if recorded.get(key) != value:
            raise shards.ShardsError(
                f"{root}: the shards there were made with {key} {recorded.get(key)!r}, not {value!r}; "
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


def _rows_read(reports: Sequence[PartReport]) -> int:
    return sum(report.read for report in reports)


def _rows_set_aside(reports: Sequence[PartReport]) -> int:
    return sum(len(report.set_aside) for report in reports)


def _too_many(reports: Sequence[PartReport], config: ConversionConfig) -> bool:
    return _rows_set_aside(reports) > config.max_bad_fraction * _rows_read(reports)


def _progress(name: str, reports: Sequence[PartReport], first: int, parts: int, seconds: float) -> str:
    """Format `cocostuff        part   12/231    6144 rows, 3 set aside  1210 rows/s  left 95 s`."""
    fresh = reports[first:]
    left = seconds / len(fresh) * (parts - len(reports))
    return (
        f"{name:16s} part {len(reports):4d}/{parts}  {_rows_read(reports):8d} rows, "
        f"{_rows_set_aside(reports)} set aside  {_rows_read(fresh) / seconds:6.0f} rows/s  left {left:.0f} s"
    )
