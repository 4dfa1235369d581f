"""From corpora on disk to rows that a training step can collate, in Ray Data workers."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray.data

from fireedit.platform import storage
from fireedit.platform.data.catalog import open_corpus
from fireedit.platform.images import ImageError, decode

Row = dict[str, Any]
Prepare = Callable[[Mapping[str, Any]], Row]
"""From a sample whose images are uint8 RGB arrays to a row of arrays of fixed sizes."""


class BadSample(ValueError):
    """A row that its reader could not read."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    cpus_per_task: float = 1.0
    """Logical CPUs of a decoding task; a fraction lets several share the cores that training leaves."""
    shuffle_rows: int = 256
    """Rows that are shuffled among one another as they come; the first batch waits for so many."""
    prefetch_batches: int = 2


def prepared(
    corpora: str, name: str, prepare: Prepare, refusal: type[Exception], quarantine: str, config: IngestConfig
) -> ray.data.Dataset:
    """A corpus as a dataset of prepared rows; it is read and decoded only as it is consumed.

    Args:
        corpora: the folder that holds the folder `name`.
        refusal: what `prepare` raises for a sample that it cannot use; any other error ends the run.
        quarantine: folder for rows that cannot be used: one JSON file each, with id and error.
    Raises:
        CorpusError: the folder is not what its name says.
    """
    samples = open_corpus(name, storage.join(corpora, name))
    return samples.flat_map(_PrepareOrSetAside(prepare, quarantine, refusal), num_cpus=config.cpus_per_task)


def epochs_of(shard: ray.data.DataIterator, seed: int, config: IngestConfig) -> Callable[[int], Iterator[Row]]:
    """One worker's share of a corpus, epoch by epoch, shuffled anew in each within `shuffle_rows`."""

    def epoch(number: int) -> Iterator[Row]:
        batches = shard.iter_batches(
            batch_size=32,
            batch_format="numpy",
            prefetch_batches=config.prefetch_batches,
            local_shuffle_buffer_size=config.shuffle_rows,
            local_shuffle_seed=seed + number,
        )
        for columns in batches:
            yield from (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))

    return epoch


def set_aside(quarantine: str) -> int:
    """How many rows lie in a quarantine folder."""
    return len(storage.names(quarantine))


class _PrepareOrSetAside:
    """A bad row is written down under its id, so that reading a corpus again counts it once."""

    def __init__(self, prepare: Prepare, quarantine: str, refusal: type[Exception]):
        self.prepare, self.quarantine = prepare, quarantine
        self.refusals = (ImageError, BadSample, refusal)

    def __call__(self, row: Row) -> list[Row]:
        try:
            if row["error"]:
                raise BadSample(row["error"])
            images = {name: decode(row[name]) if row[name] else None for name in ("source", "target")}
            return [self.prepare({**row, **images})]
        except self.refusals as error:
            name = row["id"].replace("/", "_") + ".json"
            report = json.dumps({"id": row["id"], "corpus": row["corpus"], "error": str(error)})
            storage.write_bytes(storage.join(self.quarantine, name), report.encode())
            return []
