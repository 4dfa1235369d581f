"""Outputs of frozen encoders, stored beside the rows of their shards, so that training runs no encoder.

Reading and decoding run in CPU tasks, encoders in actors with resources of their own: CPU nodes feed GPU nodes.
Encoded shards are kept when the job is repeated.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from pydantic import PositiveInt

from fireedit.platform import storage
from fireedit.platform.cluster import Demand, require_resources
from fireedit.platform.config import LogicalCPUs, LogicalGPUs
from fireedit.platform.console import say
from fireedit.platform.data import shards
from fireedit.platform.data.sample import Sample

SHARD, HAS = "shard", "has"
"""Columns that go with a shard's arrays through the pipeline: its name, and a bool a row, true if it is encoded."""

Arrays = dict[str, np.ndarray]
Load = Callable[[Sample], Arrays | None]
"""Makes the encoder's inputs of a sample, arrays of fixed shapes; None for a row that it has no use for."""
Encode = Callable[[Arrays], Arrays]
"""Turns inputs stacked to [N, ...] into float16 outputs [N, ...]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    count: PositiveInt = 1
    """Encoders that run in parallel."""
    cpus: LogicalCPUs = 1.0
    """Logical CPUs of each encoder."""
    gpus: LogicalGPUs = 0.0
    """GPUs of each encoder."""
    batch: PositiveInt = 16
    """Rows of one forward pass."""
    cpus_per_task: LogicalCPUs = 1.0
    """Logical CPUs of a task that reads, decodes or writes a shard."""


def encode(
    root: str,
    name: str,
    weights: str,
    columns: Mapping[str, tuple[int, ...]],
    load: Load,
    make_encoder: Callable[[], Encode],
    config: EncodersConfig,
) -> dict[str, Any]:
    """Encode all shards under `root` and enter the encoding in their index under `name`.

    Args:
        weights: hash of the encoder's weights.
        columns: shape of each output for one row, by name.
        make_encoder: called once in each actor.
    Returns:
        Number of all shards, shards encoded now, rows encoded among these, seconds.
    Raises:
        ShardsError: there are no finished shards under `root`.
        ResourcesError: the encoders and one task take more than the cluster has.
    """
    index, began = shards.read_index(root), time.monotonic()
    entry = shards.Encoding(f"{name}-{weights}", dict(columns), weights)
    finished = set(storage.names(storage.join(root, entry.folder)))
    todo = [shard.name for shard in index.shards if f"{shard.name}.parquet" not in finished]
    rows = 0
    for done, encoded_rows in enumerate(_encode_shards(root, index, todo, entry, load, make_encoder, config), 1):
        rows += encoded_rows
        left = (time.monotonic() - began) / done * (len(todo) - done)
        say(f"{index.corpus:16s} {name}: shard {done:4d}/{len(todo)}  {rows:8d} rows  left {left:.0f} s")
    shards.write_index(root, dataclasses.replace(index, encodings={**index.encodings, name: entry}))
    seconds = round(time.monotonic() - began, 1)
    return {"shards": len(index.shards), "encoded_now": len(todo), "rows": rows, "seconds": seconds}


def _encode_shards(
    root: str,
    index: shards.Index,
    todo: list[str],
    entry: shards.Encoding,
    load: Load,
    make_encoder: Callable[[], Encode],
    config: EncodersConfig,
) -> Iterator[int]:
    """Encode the shards of these names; yields the number of encoded rows of each."""
    if not todo:
        return
    demands = [Demand(cpus=config.cpus, gpus=config.gpus, count=config.count), Demand(cpus=config.cpus_per_task)]
    require_resources(demands, "write fewer encoders or a smaller cpus_per_task")
    dataset = ray.data.from_items([{SHARD: name} for name in todo], override_num_blocks=len(todo))
    loaded = dataset.map(_LoadShard(root, load), num_cpus=config.cpus_per_task)
    encoded = loaded.map(
        _EncodeShard,  # type: ignore[arg-type]  # a class, which each actor constructs
        fn_constructor_kwargs={"make_encoder": make_encoder, "batch": config.batch},
        compute=ray.data.ActorPoolStrategy(size=config.count),
        num_cpus=config.cpus,
        num_gpus=config.gpus or None,
    )
    written = encoded.map(_WriteShard(root, entry, index.rows_per_group), num_cpus=config.cpus_per_task)
    yield from (row["rows"] for row in written.iter_rows())


class _LoadShard:
    def __init__(self, root: str, load: Load):
        self.root, self.load = root, load

    def __call__(self, item: Mapping[str, str]) -> dict[str, Any]:
        """Stack the inputs of a whole shard, by name, and mark the rows that have any."""
        inputs = [self.load(sample) for sample in shards.iter_samples(self.root, item[SHARD])]
        present = [arrays for arrays in inputs if arrays is not None]
        stacked = {name: np.stack([arrays[name] for arrays in present]) for name in present[0]} if present else {}
        return {SHARD: item[SHARD], HAS: np.array([arrays is not None for arrays in inputs]), **stacked}


class _EncodeShard:
    def __init__(self, make_encoder: Callable[[], Encode], batch: int):
        self.encode, self.batch = make_encoder(), batch

    def __call__(self, loaded: dict[str, Any]) -> dict[str, Any]:
        inputs, pieces = {name: value for name, value in loaded.items() if name not in (SHARD, HAS)}, []
        for first in range(0, int(loaded[HAS].sum()), self.batch):
            pieces.append(self.encode({name: array[first : first + self.batch] for name, array in inputs.items()}))
        outputs = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]} if pieces else {}
        return {SHARD: loaded[SHARD], HAS: loaded[HAS], **outputs}


class _WriteShard:
    def __init__(self, root: str, entry: shards.Encoding, rows_per_group: int):
        self.root, self.entry, self.rows_per_group = root, entry, rows_per_group

    def __call__(self, encoded: dict[str, Any]) -> dict[str, int]:
        schema = pa.schema([(name, pa.binary()) for name in self.entry.columns])
        path, rows, count = shards.path_of(self.root, encoded[SHARD], self.entry.folder), [], 0
        for has in encoded[HAS].tolist():
            rows.append({name: self._bytes(name, encoded[name][count]) if has else None for name in self.entry.columns})
            count += has
        shards.write_table(path, schema, rows, self.rows_per_group)
        return {"rows": count}

    def _bytes(self, name: str, array: np.ndarray) -> bytes:
        assert array.shape == self.entry.columns[name], (name, array.shape, self.entry.columns[name])
        return array.astype(np.float16).tobytes()
