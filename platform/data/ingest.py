"""From shards to the arrays of each training step: a worker's share of one sequence of draws, in Ray Data."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.data
from pydantic import PositiveFloat, PositiveInt

from fireedit.platform import storage
from fireedit.platform.data import shards
from fireedit.platform.data.mixture import Draw, EpochOrder, Mixture
from fireedit.platform.images import decode

Row = dict[str, Any]
Prepare = Callable[[Mapping[str, Any]], Row]
"""From a sample whose images are uint8 RGB arrays to a row of arrays of fixed sizes."""


Columns = dict[str, np.ndarray]
"""Rows stacked by name; in shared memory, and not to be written to."""


ENDLESS = 2**62
"""More batches than any run takes."""
TASKS_PER_ROUND = 256
"""Tasks that are planned at once; a round that is read begins the next, which takes a second or two."""


class IngestError(ValueError):
    """Shards that no batch can be made of."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    cpus_per_task: PositiveFloat = 1.0
    """Logical CPUs of a decoding task; a fraction lets several share the cores that training leaves."""
    tasks: PositiveInt = 2
    """Decoding tasks at a time for each worker; they take its batches by turns."""
    rows_per_task: PositiveInt = 4096
    """After which a task ends and another begins; its batches leave it one by one."""
    shuffle_groups: PositiveInt = 16
    """Row groups of a corpus's shards, whose rows are shuffled among one another."""
    prefetch_batches: PositiveInt = 4
    encoded: bool = False
    """Read what `prepare.py shards --encode` stored instead of running VAE and text encoder in each step."""


@dataclass(frozen=True)
class Share:
    """What one worker takes of a run's draws: every `workers`-th run of `batch` draws.

    So a step's samples are the same ones however many workers share it.
    """

    rank: int
    workers: int
    batch: int
    """Rows of a batch."""
    start: int
    """Draws of the whole run that are done, a multiple of `batch`."""
    stop: int | None
    """Draws that the run comes to; None where no one knows."""

    def batches(self) -> range:
        """The number of every batch of this worker, counted over the whole run."""
        end = ENDLESS if self.stop is None else self.stop // self.batch
        return range(self.start // self.batch + self.rank, end, self.workers)


class Corpora:
    """The shards of every corpus of a mixture, opened, and the sequence in which their rows are drawn.

    Args:
        root: the folder that holds one folder of shards for each corpus.
        weights: corpus to share.
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

    def reader(self) -> Callable[[Draw], shards.Row]:
        """What reads the row of a draw, its pictures still encoded; draws that follow each other share what is read."""
        window, groups, orders, readers = self.config.shuffle_groups, {}, {}, {}
        for name, index in self.indices.items():
            groups[name] = index.groups()
            orders[name] = EpochOrder([rows for _, _, rows in groups[name]], name, self.seed, window)
            encodings = sorted(index.encodings) if self.config.encoded else []
            readers[name] = shards.ShardReader(storage.join(self.root, name), index, encodings, window + 1)

        def read(draw: Draw) -> shards.Row:
            group, row = orders[draw.corpus].find(draw.epoch, draw.place)
            shard, number, _ = groups[draw.corpus][group]
            return readers[draw.corpus].row(shard, number, row)

        return read


def prepared_batches(
    corpora: Corpora, share: Share, prepare: Prepare, refusal: type[Exception], quarantine: str, side: int
) -> Generator[Columns]:
    """A worker's batches of prepared rows, in order, read and decoded ahead in Ray Data's tasks.

    Closing the generator ends these tasks.

    Args:
        refusal: what `prepare` raises for a sample that it cannot use; the row after it then takes its place.
        quarantine: folder for those samples: one JSON file each, with id and error.
        side: pixels of the largest picture that `prepare` makes; larger JPEGs may be decoded at a fraction.
    """
    numbers, per_task = share.batches(), max(1, corpora.config.rows_per_task // share.batch)
    read, together = _ReadBatches(corpora, share.batch, prepare, refusal, quarantine, side), per_task * TASKS_PER_ROUND
    while numbers:
        yield from _round(read, numbers[:together], per_task, corpora.config)
        numbers = numbers[together:]


def _round(read: "_ReadBatches", numbers: range, per_task: int, config: IngestConfig) -> Generator[Columns]:
    """The batches of these numbers, planned at once."""
    tasks = [{"numbers": run} for run in _dealt(numbers, per_task, config.tasks)]
    dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    dataset.context.target_max_block_size = 1  # so each batch, which is one row there, leaves its task at once
    at_once = ray.data.TaskPoolStrategy(size=min(config.tasks, len(tasks)))
    prepared = dataset.map_batches(read, batch_format="numpy", num_cpus=config.cpus_per_task, compute=at_once)
    blocks = iter(prepared.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=config.prefetch_batches))
    early: dict[int, Columns] = {}  # Ray Data keeping the order would stop all tasks but the first
    for number in numbers:
        while number not in early:
            block = {name: values[0] for name, values in next(blocks).items()}
            early[int(block.pop("number"))] = block
        yield early.pop(number)


def _dealt(numbers: range, per_task: int, tasks: int) -> list[tuple[int, int, int]]:
    """Numbers dealt by turns to tasks of which so many work at a time, so that none is far ahead; ranges as tuples."""
    runs = [numbers[first : first + per_task * tasks] for first in range(0, len(numbers), per_task * tasks)]
    dealt = [run[turn::tasks] for run in runs for turn in range(min(tasks, len(run)))]
    return [(part.start, part.stop, part.step) for part in dealt]


def stacked(rows: Sequence[Row]) -> Columns:
    """Rows as one batch.

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
    """How many rows lie in a quarantine folder."""
    return sum(name.endswith(".json") for name in storage.names(quarantine))  # a killed task leaves drafts


class _ReadBatches:
    """A task: some of a worker's batches, by their numbers."""

    def __init__(
        self,
        corpora: Corpora,
        batch: int,
        prepare: Prepare,
        refusal: type[Exception],
        quarantine: str,
        side: int,
    ):
        self.corpora, self.batch = corpora, batch
        self.prepare, self.refusal, self.quarantine, self.side = prepare, refusal, quarantine, side
        self.pictures = ("source",) if corpora.config.encoded else ("source", "target")

    def __call__(self, tasks: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        read, size = self.corpora.reader(), self.batch
        for first, last, step in tasks["numbers"].tolist():
            for number in range(first, last, step):
                draws = self.corpora.mixture.draws(number * size, (number + 1) * size)
                columns = stacked([self._prepared(read, draw) for draw in draws])
                yield {name: values[None] for name, values in columns.items()} | {"number": np.array([number])}

    def _prepared(self, read: Callable[[Draw], shards.Row], draw: Draw) -> Row:
        """The row of a draw, or the next one of its epoch that can be used."""
        size = self.corpora.sizes[draw.corpus]
        for ahead in range(size):
            row = read(Draw(draw.number, draw.corpus, draw.epoch, (draw.place + ahead) % size))
            pictures = {name: decode(row[name], draft=self.side) if row[name] else None for name in self.pictures}
            try:
                return self.prepare({**row, **pictures})
            except self.refusal as error:
                report = json.dumps({"id": row["id"], "corpus": row["corpus"], "error": str(error)})
                name = row["id"].replace("/", "_") + ".json"
                storage.write_bytes(storage.join(self.quarantine, name), report.encode())
        raise IngestError(f"{draw.corpus}: no row of this corpus can be trained on; see {self.quarantine}")


def _training_index(root: str, encoded: bool) -> shards.Index:
    """The index of shards that may be trained on.

    Raises:
        ShardsError: they are not there, are held out, or lack their encodings.
    """
    index = shards.read_index(root)
    if index.split != "train" or index.world not in ("", "train"):
        held_out = f"split {index.split!r}" if index.split != "train" else f"world {index.world!r}"
        raise shards.ShardsError(f"{root}: these shards are held out of training: they are of {held_out}")
    if encoded and not index.encodings:
        raise shards.ShardsError(
            f"{root}: nothing is encoded beside these shards; run: python jobs/prepare.py shards --encode latents, "
            "or write ingest.encoded=false"
        )
    return index
