"""Outputs of frozen encoders, stored beside the rows of their shards, so that training runs no encoder.

Reading and decoding run in CPU tasks, encoders in actors with resources of their own: CPU nodes feed GPU nodes.
Encoded shards are kept when the job is repeated.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from pydantic import PositiveInt

from fireedit.platform import storage
from fireedit.platform.cluster import require_resources
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


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Frozen encoder as a step of preparation."""

    fingerprint: str
    """Hash of its weights."""
    columns: dict[str, tuple[int, ...]]
    """Shapes of its float16 outputs for one row, by name."""
    load: Load
    """Input of one row."""
    make: Callable[[], Encode]
    """Constructor, called in the actor that encodes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    count: PositiveInt = 1
    """Encoders that run in parallel."""
    gpus: LogicalGPUs = 0.0
    """GPUs of each encoder."""
    batch: PositiveInt = 16
    """Rows of one forward pass."""
    cpus_per_task: LogicalCPUs = 1.0
    """Logical CPUs of each encoder, and of each task that reads, decodes or writes a shard."""


def encode(root: str, name: str, encoder: Encoder, config: EncodersConfig) -> dict[str, Any]:
    """Encode all shards under `root` and enter the encoding in their index under `name`.

    Returns:
        Number of all shards, shards encoded now, rows encoded among these, seconds.
    Raises:
        ShardsError: there are no finished shards under `root`.
        ResourcesError: the encoders and one task take more than the cluster has.
    """
    index, began = shards.read_index(root), time.monotonic()
    entry = shards.Encoding(f"{name}-{encoder.fingerprint}", encoder.columns, encoder.fingerprint)
    finished = set(storage.names(storage.join(root, entry.folder)))
    todo = [shard.name for shard in index.shards if f"{shard.name}.parquet" not in finished]
    rows = 0
    for done, encoded_rows in enumerate(_encode_shards(root, index, todo, entry, encoder, config), start=1):
        rows += encoded_rows
        left = (time.monotonic() - began) / done * (len(todo) - done)
        say(f"{index.corpus:16s} {name}: shard {done:4d}/{len(todo)}  {rows:8d} rows  left {left:.0f} s")
    shards.write_index(root, dataclasses.replace(index, encodings={**index.encodings, name: entry}))
    seconds = round(time.monotonic() - began, 1)
    return {"shards": len(index.shards), "encoded_now": len(todo), "rows": rows, "seconds": seconds}


def _encode_shards(
    root: str, index: shards.Index, todo: list[str], entry: shards.Encoding, encoder: Encoder, config: EncodersConfig
) -> Iterator[int]:
    """Encode the shards of these names; yields the number of encoded rows of each."""
    if not todo:
        return
    bundles = config.count * [{"CPU": config.cpus_per_task, "GPU": config.gpus}] + [{"CPU": config.cpus_per_task}]
    require_resources(bundles, "write fewer encoders or a smaller cpus_per_task")
    dataset = ray.data.from_items([{SHARD: name} for name in todo], override_num_blocks=len(todo))
    loaded = dataset.map(functools.partial(_load_shard, root, encoder.load), num_cpus=config.cpus_per_task)
    encoded = loaded.map(
        _EncodeShard,  # type: ignore[arg-type]  # a class, which each actor constructs
        fn_constructor_kwargs={"make_encoder": encoder.make, "batch": config.batch},
        compute=ray.data.ActorPoolStrategy(size=config.count),
        num_cpus=config.cpus_per_task,
        num_gpus=config.gpus or None,
    )
    write = functools.partial(_write_shard, root, entry, index.rows_per_group)
    yield from (row["rows"] for row in encoded.map(write, num_cpus=config.cpus_per_task).iter_rows())


def _load_shard(root: str, load: Load, item: Mapping[str, str]) -> dict[str, Any]:
    """Stack the inputs of a whole shard, by name, and mark the rows that have any."""
    inputs = [load(sample) for sample in shards.iter_samples(root, item[SHARD])]
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


def _write_shard(root: str, entry: shards.Encoding, rows_per_group: int, encoded: dict[str, Any]) -> dict[str, int]:
    """Write the arrays of a shard row by row, null for rows that are not encoded."""
    rows: list[dict[str, bytes | None]] = [dict.fromkeys(entry.columns) for _ in encoded[HAS]]
    for place, row in enumerate(np.flatnonzero(encoded[HAS])):
        for name, shape in entry.columns.items():
            array = encoded[name][place]
            assert array.shape == shape, (name, array.shape, shape)
            rows[row][name] = array.astype(np.float16).tobytes()
    schema = pa.schema([(name, pa.binary()) for name in entry.columns])
    shards.write_table(shards.path_of(root, encoded[SHARD], entry.folder), schema, rows, rows_per_group)
    return {"rows": int(encoded[HAS].sum())}
