"""Training batches out of shards: each worker's share of one sequence of draws, read and decoded in other processes.

Row groups are fetched once per node, whichever of its processes need them (`GroupCache`). These are tasks of Ray
(`RayTasks`) or processes of a pool (`PoolTasks`), which make the same batches; this module knows neither.
"""

import functools
import json
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from fireedit.platform import storage
from fireedit.platform.config import LogicalCPUs
from fireedit.platform.data import shards
from fireedit.platform.data.group_cache import GroupCache, scratch_folder
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
"""Prepared rows stacked by name; Ray has them in shared memory, read only."""

UNLIMITED = 2**62
"""Number of batches that no run reaches."""


class IngestError(ValueError):
    """Rows that cannot be stacked to a batch, or a corpus without any usable row."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Processes that read a worker's batches, their read-ahead, and the node's copy of row groups."""

    cpus_per_task: LogicalCPUs = 1.0
    """Logical CPUs of a task on Ray; a fraction lets several share the cores that training leaves."""
    tasks: PositiveInt = 2
    """Batches that are decoded in parallel for each worker: Ray tasks, or processes of a pool.

    One core decodes, resizes and tokenizes some 87 pairs of 512 px a second. A task also waits for the bucket, so that
    more tasks than cores pay where every batch needs new row groups.
    """
    shuffle_groups: PositiveInt = 16
    """Row groups of a corpus whose rows are shuffled together."""
    prefetch_batches: PositiveInt = 16
    """Batches in flight for each worker: queued, being decoded, or waiting for it; at least `tasks`."""
    prefetch_mb: PositiveInt = 256
    """Size that these may have together: 16 batches of 16 rows at the paper's sizes, 2 GB on a node of 8 workers. Fewer
    are in flight where they are larger, but never fewer than `tasks`."""
    cache_gb: PositiveFloat = 4.0
    """Row groups kept on each node's disk. The windows of eight corpora in use are 0.5 GB at 512 px; with the size of
    the whole corpora, these are fetched once in a run instead of once an epoch."""
    cache_folder: Annotated[str, Field(pattern="^(/.*)?$")] = ""
    """Absolute path of a folder for them on a disk of the node itself; empty takes one under $TMPDIR, or /tmp."""
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

    def __post_init__(self) -> None:
        assert self.start % self.batch == 0, (self.start, self.batch)

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
        self.config, self.seed = config, seed
        self.roots = {name: storage.join(root, name) for name in sorted(weights)}
        self.indices = {name: _training_index(path, config.encoded) for name, path in self.roots.items()}
        self.versions = {name: shards.version_of(path) for name, path in self.roots.items()}
        self.sizes = {name: index.rows for name, index in self.indices.items()}
        self.mixture = Mixture(weights, self.sizes, seed)

    def reader(self) -> "DrawReader":
        """Open the shards for reading in this process."""
        return DrawReader(self)


class DrawReader:
    """Reads the rows of draws; successive draws share the row groups that are mapped into memory."""

    def __init__(self, corpora: Corpora):
        config = corpora.config
        folder = Path(config.cache_folder) if config.cache_folder else scratch_folder()
        cache = GroupCache(folder, round(config.cache_gb * 1e9))
        self._groups = {name: index.groups() for name, index in corpora.indices.items()}
        self._orders, self._shards = {}, {}
        for name, index in corpora.indices.items():
            rows = [rows for _, _, rows in self._groups[name]]
            self._orders[name] = EpochOrder(rows, name, corpora.seed, config.shuffle_groups)
            self._shards[name] = shards.ShardReader(
                corpora.roots[name],
                index,
                sorted(index.encodings) if config.encoded else [],
                groups=config.shuffle_groups + 1,
                cache=cache,
                version=corpora.versions[name],
            )

    def __call__(self, draw: Draw) -> StoredSample:
        group, row = self._orders[draw.corpus].find(draw.epoch, draw.place)
        shard, number, _ = self._groups[draw.corpus][group]
        return self._shards[draw.corpus].row(shard, number, row)

    @property
    def fetched_bytes(self) -> int:
        """Bytes of the row groups that were fetched here, and not mapped from what this node had."""
        return sum(reader.fetched_bytes for reader in self._shards.values())

    @property
    def row_bytes(self) -> int:
        """Bytes of the rows that were read."""
        return sum(reader.row_bytes for reader in self._shards.values())


@dataclass(frozen=True)
class PreparedBatch:
    """Batch of a run, ready to be made into tensors."""

    number: int
    """Position among the batches of the whole run."""
    columns: Columns
    fetched_bytes: int
    """Bytes of the row groups that were fetched for it; others were on the node."""
    row_bytes: int
    """Bytes of its rows as they are stored."""

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in self.columns.values())


ReadBatch = Callable[[int], PreparedBatch]
"""Reads the batch of a number, in whichever process; it must be possible to pickle."""


class Tasks(Protocol):
    """Processes that read a worker's batches."""

    def submit(self, number: int) -> Future[PreparedBatch]:
        """Begin to read the batch of this number, once those that were submitted before it have begun."""

    def close(self) -> None:
        """Cancel what has not begun and end the processes."""


@dataclass(frozen=True, eq=False)
class BatchReader:
    """Reads and prepares batches by their numbers in a task's process; for the fields see `prepared_batches`."""

    corpora: Corpora
    batch: int
    prepare: Prepare
    refusal: type[Exception]
    quarantine: str
    side: int

    def __call__(self, number: int) -> PreparedBatch:
        read = self._read
        fetched, stored = read.fetched_bytes, read.row_bytes
        draws = self.corpora.mixture.draws(number * self.batch, (number + 1) * self.batch)
        columns = stacked([self._prepared(draw) for draw in draws])
        return PreparedBatch(number, columns, read.fetched_bytes - fetched, read.row_bytes - stored)

    @functools.cached_property
    def _read(self) -> DrawReader:
        return self.corpora.reader()

    def _prepared(self, draw: Draw) -> PreparedRow:
        """Prepare the row of a draw, or the next one of its epoch that can be used."""
        size = self.corpora.sizes[draw.corpus]
        for ahead in range(size):
            stored = self._read(replace(draw, place=(draw.place + ahead) % size))
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


def prepared_batches(
    corpora: Corpora,
    share: Share,
    prepare: Prepare,
    refusal: type[Exception],
    quarantine: str,
    side: int,
    tasks: Callable[[ReadBatch, IngestConfig], Tasks],
) -> Generator[PreparedBatch]:
    """Yield a worker's batches of prepared rows, in order, while its tasks read and decode the next ones.

    Closing the generator ends these tasks.

    Args:
        refusal: exception that `prepare` raises for a sample that it cannot use; the next row takes its place.
        quarantine: folder for those samples: one JSON file each, with id and error.
        side: pixels of the largest picture that `prepare` makes; larger JPEGs may be decoded at a fraction.
        tasks: `RayTasks` or `PoolTasks`.
    Raises:
        IngestError: rows cannot be stacked, a corpus has no usable row, or a process of the pool was killed.
    """
    config, numbers = corpora.config, iter(share.batches())
    with closing(tasks(BatchReader(corpora, share.batch, prepare, refusal, quarantine, side), config)) as running:
        try:
            waiting = deque(running.submit(number) for number in islice(numbers, config.tasks))
            while waiting:
                batch = waiting.popleft().result()
                ahead = max(config.tasks, min(config.prefetch_batches, config.prefetch_mb * 10**6 // batch.nbytes))
                waiting.extend(running.submit(number) for number in islice(numbers, max(0, ahead - len(waiting))))
                yield batch
        except BrokenExecutor as error:
            raise IngestError(
                "a decoding process was killed, maybe for want of memory; write a smaller ingest.tasks"
            ) from error


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
