"""Training batches out of shards: each worker's share of one sequence of draws, read and decoded in Ray Data."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray.data
from pydantic import PositiveInt

from fireedit.platform import storage
from fireedit.platform.config import LogicalCPUs
from fireedit.platform.data import shards
from fireedit.platform.data.mixture import Draw, EpochOrder, Mixture
from fireedit.platform.data.sample import Sample
from fireedit.platform.data.shards import StoredSample
from fireedit.platform.images import Pixels, decode

PreparedRow = dict[str, Any]
"""Arrays of fixed sizes, and text, by name."""
Prepare = Callable[[Mapping[str, Any]], PreparedRow]
"""Turns a sample into a row. It gets the fields of `Sample` by name, source and target decoded to `Pixels` or None, and
the `StoredArray`s of its encodings."""
Columns = dict[str, np.ndarray]
"""Prepared rows stacked by name, in shared memory: read only."""

UNLIMITED = 2**62
"""Number of batches that no run reaches."""
TASKS_PER_ROUND = 256
"""Tasks that Ray Data plans at once; planning the next round takes a second or two."""


class IngestError(ValueError):
    """Rows that cannot be stacked to a batch, or a corpus without any usable row."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    cpus_per_task: LogicalCPUs = 1.0
    """Logical CPUs of a decoding task; a fraction lets several share the cores that training leaves."""
    tasks: PositiveInt = 2
    """Decoding tasks that run in parallel for each worker; its batches are dealt to them round-robin."""
    rows_per_task: PositiveInt = 4096
    """Rows after which a task ends and another begins; its batches are streamed out one by one."""
    shuffle_groups: PositiveInt = 16
    """Row groups of a corpus whose rows are shuffled together."""
    prefetch_batches: PositiveInt = 4
    encoded: bool = False
    """Read what `prepare.py shards --encode` stored instead of running VAE and text encoder in each step."""


@dataclass(frozen=True)
class Share:
    """Batches of one worker: every `workers`-th of the run.

    Each step's samples are therefore the same for any number of workers.
    """

    rank: int
    workers: int
    batch: int
    """Rows of a batch."""
    start: int
    """Draws of the whole run that are done, a multiple of `batch`."""
    stop: int | None
    """Draws of the whole run; None if it has no known end."""

    def batches(self) -> range:
        """List the numbers of this worker's batches, counted over the whole run."""
        end = UNLIMITED if self.stop is None else self.stop // self.batch
        return range(self.start // self.batch + self.rank, end, self.workers)


class Corpora:
    """Opened shards of every corpus of a mixture, and the sequence in which their rows are drawn.

    Args:
        root: folder that holds one folder of shards for each corpus.
        weights: share of each corpus.
        seed: seed of the sequence.
    Raises:
        ShardsError: shards are missing, or are not for training.
        MixtureError: a weight is wrong, or a corpus is empty.
    """

    def __init__(self, root: str, weights: Mapping[str, float], seed: int, config: IngestConfig):
        self.root, self.config = root, config
        self.indices = {name: _training_index(storage.join(root, name), config.encoded) for name in sorted(weights)}
        self.sizes = {name: index.rows for name, index in self.indices.items()}
        self.mixture = Mixture(weights, self.sizes, seed)
        self.seed = seed

    def reader(self) -> Callable[[Draw], StoredSample]:
        """Make a function that reads the row of a draw; successive draws share the row groups that it reads."""
        window, groups, orders, readers = self.config.shuffle_groups, {}, {}, {}
        for name, index in self.indices.items():
            groups[name] = index.groups()
            orders[name] = EpochOrder([rows for _, _, rows in groups[name]], name, self.seed, window)
            encodings = sorted(index.encodings) if self.config.encoded else []
            readers[name] = shards.ShardReader(storage.join(self.root, name), index, encodings, window + 1)

        def read(draw: Draw) -> StoredSample:
            group, row = orders[draw.corpus].find(draw.epoch, draw.place)
            shard, number, _ = groups[draw.corpus][group]
            return readers[draw.corpus].row(shard, number, row)

        return read


def prepared_batches(
    corpora: Corpora,
    share: Share,
    prepare: Prepare,
    refusal: type[Exception],
    quarantine: str,
    side: int,
    tasks_per_round: int = TASKS_PER_ROUND,
) -> Generator[Columns]:
    """Yield a worker's batches of prepared rows, in order; Ray Data's tasks read and decode ahead.

    Closing the generator ends these tasks.

    Args:
        refusal: exception that `prepare` raises for a sample that it cannot use; the next row takes its place.
        quarantine: folder for those samples: one JSON file each, with id and error.
        side: pixels of the largest picture that `prepare` makes; larger JPEGs may be decoded at a fraction.
    """
    config, numbers = corpora.config, share.batches()
    per_task = max(1, config.rows_per_task // share.batch)
    per_round = per_task * tasks_per_round
    read = _BatchReader(corpora, share.batch, prepare, refusal, quarantine, side)
    while numbers:
        yield from _read_round(read, numbers[:per_round], per_task, config)
        numbers = numbers[per_round:]


def _read_round(read: "_BatchReader", numbers: range, per_task: int, config: IngestConfig) -> Generator[Columns]:
    """Plan the tasks for the batches of these numbers at once and yield the batches in order."""
    tasks = [{"numbers": run} for run in _deal_batches(numbers, per_task, config.tasks)]
    dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    dataset.context.target_max_block_size = 1  # so that each batch, a row of the block, leaves its task at once
    pool = ray.data.TaskPoolStrategy(size=min(config.tasks, len(tasks)))
    prepared = dataset.map_batches(read, batch_format="numpy", num_cpus=config.cpus_per_task, compute=pool)
    blocks = iter(prepared.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=config.prefetch_batches))
    early: dict[int, Columns] = {}  # if Ray Data kept the order, it would stop all tasks but the first
    for number in numbers:
        while number not in early:
            block = {name: values[0] for name, values in next(blocks).items()}
            early[int(block.pop("number"))] = block
        yield early.pop(number)


def _deal_batches(numbers: range, per_task: int, tasks: int) -> list[tuple[int, int, int]]:
    """Deal batches round-robin to concurrent tasks, so that none runs far ahead; returns each task's range."""
    runs = [numbers[first : first + per_task * tasks] for first in range(0, len(numbers), per_task * tasks)]
    ranges = [run[task::tasks] for run in runs for task in range(min(tasks, len(run)))]
    return [(batches.start, batches.stop, batches.step) for batches in ranges]


def stacked(rows: Sequence[PreparedRow]) -> Columns:
    """Stack rows to one batch.

    Raises:
        IngestError: captions, which stage 1 reads, are among samples with pictures, which stages 2 and 3 read.
    """
    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if len({np.shape(value) for value in values}) > 1:
            raise IngestError("captions and pictures in one batch; mix corpora of captions with no others")
        columns[name] = np.stack(values)
    return columns


def set_aside(quarantine: str) -> int:
    """Count the rows in a quarantine folder."""
    return sum(name.endswith(".json") for name in storage.names(quarantine))  # a killed task leaves drafts


@dataclass(frozen=True, eq=False)
class _BatchReader:
    """Task that reads some of a worker's batches, by their numbers; for the fields see `prepared_batches`."""

    corpora: Corpora
    batch: int
    prepare: Prepare
    refusal: type[Exception]
    quarantine: str
    side: int

    def __call__(self, tasks: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        read, size = self.corpora.reader(), self.batch
        for first, last, step in tasks["numbers"].tolist():
            for number in range(first, last, step):
                draws = self.corpora.mixture.draws(number * size, (number + 1) * size)
                columns = stacked([self._prepared(read, draw) for draw in draws])
                yield {name: values[None] for name, values in columns.items()} | {"number": np.array([number])}

    def _prepared(self, read: Callable[[Draw], StoredSample], draw: Draw) -> PreparedRow:
        """Prepare the row of a draw, or the next one of its epoch that can be used."""
        size = self.corpora.sizes[draw.corpus]
        for ahead in range(size):
            stored = read(replace(draw, place=(draw.place + ahead) % size))
            sample = stored.sample
            try:
                return self.prepare({**sample.row(), **self._pixels(sample), **stored.arrays})
            except self.refusal as error:
                report = json.dumps({"id": sample.id, "corpus": sample.corpus, "error": str(error)})
                name = sample.id.replace("/", "_") + ".json"
                storage.write_bytes(storage.join(self.quarantine, name), report.encode())
        raise IngestError(f"{draw.corpus}: no row of this corpus can be trained on; see {self.quarantine}")

    def _pixels(self, sample: Sample) -> dict[str, Pixels | None]:
        """Decode the pictures that no stored encoding stands in for."""
        pictures = {"source": sample.source} | ({} if self.corpora.config.encoded else {"target": sample.target})
        return {name: decode(data, draft=self.side) if data else None for name, data in pictures.items()}


def _training_index(root: str, encoded: bool) -> shards.Index:
    """Read the index of shards that may be trained on.

    Raises:
        ShardsError: they are missing, held out, or lack their encodings.
    """
    index = shards.read_index(root)
    for kind, name, trained in (("split", index.split, ["train"]), ("world", index.world, ["", "train"])):
        if name not in trained:
            raise shards.ShardsError(f"{root}: these shards are held out of training: they are of {kind} {name!r}")
    if encoded and not index.encodings:
        raise shards.ShardsError(
            f"{root}: nothing is encoded beside these shards; run: python jobs/prepare.py shards --encode latents, "
            "or write ingest.encoded=false"
        )
    return index
