"""Benchmark of training's input pipeline against PyTorch's DataLoader and webdataset.

All three decode, resize and tokenize the same JPEG pairs through the same functions into the same batches, with the
same number of worker processes and cores, each shuffling in its usual way: training's exactly, from shards; the
DataLoader (shuffle=True) exactly, from loose files, its best case, since random rows of parquet cost it whole row
groups; and webdataset within a buffer as large as the window of training's shuffle, from tars. Every measurement runs
in processes of its own, and the three take turns, so that other load on the machine affects all alike.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import webdataset
from torch.utils.data import DataLoader, Dataset, RandomSampler
from transformers import AutoTokenizer

from fireedit.benchmarks.measuring import cpu_seconds, cpu_since, family, memory_mb
from fireedit.models.model import NANO, preset
from fireedit.models.processor import Batch, Processor
from fireedit.models.tokens import PromptError
from fireedit.platform import storage
from fireedit.platform.cluster import start_ray
from fireedit.platform.console import say
from fireedit.platform.data import shards
from fireedit.platform.data.conversion import ConversionConfig
from fireedit.platform.data.ingest import Corpora, IngestConfig, Share, prepared_batches, stacked
from fireedit.platform.data.preparation import prepare_scenes, prepare_shards
from fireedit.platform.data.ray_tasks import RayTasks
from fireedit.platform.images import decode
from fireedit.platform.processes import in_new_process

CORPUS = "instructpix2pix"
ROWS_PER_TAR = 128
UNLIMITED = 1 << 20
"""Samples, more than any measurement takes."""
WARM_UP = 2048
"""Samples that are taken before a measurement; the measurement takes a multiple."""
MEMORY_READINGS = 16
"""Readings of the memory after a measurement, WARM_UP samples in all."""
PICTURES = ("source", "target")
FORK = "fork"
"""Start method of a DataLoader's workers: the default on Linux, except in a spawned process."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Data that all three pipelines read, and the batches that they make of it."""

    folder: str
    """Folder of the pairs as shards, as loose files and in tars; missing ones are made."""
    pairs: int = 1500
    size: int = 512
    """Side of the stored pictures, pixels."""
    view: int = 224
    """Side of the encoders' input, pixels."""
    canvas: int = 256
    """Side of the VAE's input, pixels."""
    batch: int = 16
    """Samples of a batch."""
    workers: int = 2
    """Number of decoding processes, and of the cores that everything runs on."""

    @property
    def copies(self) -> str:
        """Folder of the loose files and tars."""
        return storage.join(self.folder, "copies")

    @property
    def side(self) -> int:
        """Side of the largest picture that is made, pixels."""
        return max(self.view, self.canvas)


@dataclass(frozen=True)
class Measurement:
    """Speed and memory of one pipeline in one round."""

    samples_per_s: float
    samples_per_cpu_s: float
    """Samples per CPU second of all processes, including Ray's."""
    memory_mb: float
    """Peak resident memory of all processes, each page counted once."""


def main() -> None:
    args = _parser().parse_args()
    out = storage.absolute(args.out)
    folder = storage.join(out, f"{args.pairs}x{args.size}")
    setup = Setup(folder=folder, pairs=args.pairs, size=args.size, workers=args.workers)
    in_new_process(prepare, setup)
    measurements: dict[str, list[Measurement]] = {name: [] for name in PIPELINES}
    for number in range(args.rounds):
        turn = number % len(PIPELINES)
        for name in [*PIPELINES][turn:] + [*PIPELINES][:turn]:
            measurements[name].append(in_new_process(measure, name, setup, args.samples))
            say(f"round {number + 1}/{args.rounds}  {name:10s} {measurements[name][-1].samples_per_s:6.1f} samples/s")
    report = compare(measurements, setup.workers)
    say(table(report))
    print(json.dumps(report | asdict(setup)))


def prepare(setup: Setup) -> None:
    """Render the pairs, convert them to shards, and copy these into loose files and tars; finished ones are kept."""
    start_ray()
    corpora, out = storage.join(setup.folder, "corpora"), storage.join(setup.folder, "shards")
    prepare_scenes(corpora, [CORPUS], setup.pairs, setup.size, seed=0)
    prepare_shards(corpora, out, [CORPUS], config=ConversionConfig(size=setup.size))
    if storage.exists(storage.join(setup.copies, "rows.json")):
        return
    root = storage.join(out, CORPUS)
    rows: list[dict[str, Any]] = []
    with storage.writing_folder(setup.copies, last="rows.json") as folder:
        with webdataset.ShardWriter(f"{folder}/%04d.tar", maxcount=ROWS_PER_TAR, verbose=0) as tars:
            for shard in shards.read_index(root).shards:
                for row in (sample.row() for sample in shards.iter_samples(root, shard.name)):
                    key = f"{len(rows):06d}"
                    pictures = {f"{name}.jpg": row.pop(name) for name in PICTURES}
                    tars.write({"__key__": key, "json": row, **pictures})
                    for name, data in pictures.items():
                        (folder / f"{key}.{name}").write_bytes(data)
                    rows.append(row)
        (folder / "rows.json").write_text(json.dumps(rows))


def load_processor(setup: Setup) -> Processor:
    """Load nano's tokenizers and prompts with the setup's sizes."""
    tokenizers = {name: AutoTokenizer.from_pretrained(NANO / name) for name in ("vlm_tokenizer", "tokenizer")}
    nano = preset("nano")
    vision, vae = replace(nano.vision, image_size=setup.view), replace(nano.vae, sample_size=setup.canvas)
    return Processor(**tokenizers, config=replace(nano, vision=vision, vae=vae))


def from_ray_tasks(setup: Setup, samples: int = UNLIMITED) -> Iterator[Batch]:
    """Make batches with training's own pipeline."""
    start_ray()
    processor = load_processor(setup)
    config = IngestConfig(tasks=setup.workers, cache_folder=storage.join(setup.folder, "row-groups"))
    corpora = Corpora(storage.join(setup.folder, "shards"), {CORPUS: 1.0}, 0, config)
    share, quarantine = Share(0, 1, setup.batch, 0, samples), storage.join(setup.folder, "quarantine")
    batches = prepared_batches(corpora, share, processor.row, PromptError, quarantine, setup.side, RayTasks)
    return (processor.batch(batch.columns) for batch in batches)


def from_dataloader(setup: Setup, samples: int = UNLIMITED) -> Iterator[Batch]:
    """Make batches with PyTorch's DataLoader over loose files; one long epoch, so that no worker waits at its end."""
    pairs = LoosePairs(setup)
    loader = DataLoader(
        pairs,
        setup.batch,
        sampler=RandomSampler(pairs, num_samples=samples),
        num_workers=setup.workers,
        collate_fn=pairs.collate,
        multiprocessing_context=FORK,
    )
    return iter(loader)


def from_webdataset(setup: Setup, samples: int = UNLIMITED) -> Iterator[Batch]:
    """Make batches with webdataset over tars, shuffled and then decoded; never ends, so `samples` has no effect."""
    processor, side = load_processor(setup), setup.side
    window = IngestConfig().shuffle_groups * shards.ROWS_PER_GROUP
    tars = [storage.join(setup.copies, name) for name in storage.names(setup.copies) if name.endswith(".tar")]

    def row_of(sample: Mapping[str, Any]) -> dict[str, Any]:
        pictures = {name: sample[f"{name}.jpg"] for name in PICTURES}
        return row_from(json.loads(sample["json"]), pictures, processor, side)

    def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
        return processor.batch(stacked([row_of(sample) for sample in samples]))

    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(window)
    batches = dataset.batched(setup.batch, collation_fn=collate).repeat()
    loader = webdataset.WebLoader(batches, batch_size=None, num_workers=setup.workers, multiprocessing_context=FORK)
    return iter(loader)


TRAINING = "ours"
PIPELINES: dict[str, Callable[..., Iterator[Batch]]] = {
    TRAINING: from_ray_tasks,
    "dataloader": from_dataloader,
    "webdataset": from_webdataset,
}


class LoosePairs(Dataset[dict[str, Any]]):
    """Pairs as files in a folder, by number."""

    def __init__(self, setup: Setup):
        self.folder, self.side, self.processor = pathlib.Path(setup.copies), setup.side, load_processor(setup)
        self.rows = json.loads((self.folder / "rows.json").read_text())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        pictures = {name: (self.folder / f"{number:06d}.{name}.jpg").read_bytes() for name in PICTURES}
        return row_from(self.rows[number], pictures, self.processor, self.side)

    def collate(self, rows: Sequence[dict[str, Any]]) -> Batch:
        return self.processor.batch(stacked(rows))


def row_from(row: Mapping[str, Any], pictures: Mapping[str, bytes], processor: Processor, side: int) -> dict[str, Any]:
    """Decode and process a sample as training's pipeline does."""
    return processor.row({**row, **{name: decode(data, draft=side) for name, data in pictures.items()}})


def measure(pipeline: str, setup: Setup, samples: int) -> Measurement:
    """Measure the time and CPU time of `samples` samples of one pipeline after WARM_UP; then read the memory."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: setup.workers])
    batches = PIPELINES[pipeline](setup)
    take(WARM_UP, batches)
    before, began = cpu_seconds(family()), time.monotonic()
    taken = take(samples, batches)
    seconds = time.monotonic() - began
    cpu_s = cpu_since(before, family())
    peak = 0.0
    for _ in range(MEMORY_READINGS):  # apart from the timing: a reading takes as long as some batches
        take(WARM_UP // MEMORY_READINGS, batches)
        peak = max(peak, memory_mb(family()))
    return Measurement(taken / seconds, taken / cpu_s, peak)


def take(samples: int, batches: Iterator[Batch]) -> int:
    """Take batches until they hold at least `samples` samples; returns their number of samples."""
    taken = 0
    while taken < samples:
        taken += len(next(batches).ids)
    return taken


def compare(measurements: Mapping[str, Sequence[Measurement]], cores: int) -> dict[str, Any]:
    """Compute medians over the rounds, and the ratios of training's pipeline to the better of the others."""
    pipelines: dict[str, dict[str, Any]] = {}
    for name, rounds in measurements.items():
        columns = {field.name: [getattr(measured, field.name) for measured in rounds] for field in fields(Measurement)}
        pipelines[name] = {key: round(statistics.median(values), 1) for key, values in columns.items()}
        pipelines[name]["samples_per_s_per_core"] = round(pipelines[name]["samples_per_s"] / cores, 1)
        pipelines[name]["rounds"] = [round(value, 1) for value in columns["samples_per_s"]]
    ratios = {"ratio": ratio(measurements, "samples_per_s"), "cpu_ratio": ratio(measurements, "samples_per_cpu_s")}
    return {"pipelines": pipelines} | ratios


def ratio(measurements: Mapping[str, Sequence[Measurement]], key: str) -> float:
    """Divide training's value by the better of the others in each round; returns the median over the rounds."""
    values = {name: [getattr(measured, key) for measured in rounds] for name, rounds in measurements.items()}
    training = values.pop(TRAINING)
    best = (max(others) for others in zip(*values.values(), strict=True))
    return round(statistics.median(value / other for value, other in zip(training, best, strict=True)), 3)


def table(report: Mapping[str, Any]) -> str:
    """Format the report for a person, a line a pipeline."""
    keys = ("samples_per_s", "samples_per_s_per_core", "samples_per_cpu_s", "memory_mb")
    lines = [f"{'':12s}{'samples/s':>10s}{'a core':>10s}{'a CPU s':>10s}{'MB':>10s}  rounds"]
    for name, medians in report["pipelines"].items():
        lines.append(f"{name:12s}" + "".join(f"{medians[key]:10.1f}" for key in keys) + f"  {medians['rounds']}")
    lines.append(f"ours to the better other: {report['ratio']:.2f}; by CPU time: {report['cpu_ratio']:.2f}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = " (default: %(default)s)"
    out = storage.join(storage.home(), "benchmarks", "data")
    parser.add_argument("--out", default=out, help="folder of the pictures, kept for the next run" + default)
    parser.add_argument("--pairs", type=int, default=Setup.pairs, help="pairs of source and target pictures" + default)
    parser.add_argument("--size", type=int, default=Setup.size, help="side of the stored pictures, pixels" + default)
    parser.add_argument("--workers", type=int, default=Setup.workers, help="decoding processes, and cores" + default)
    parser.add_argument("--samples", type=int, default=2 * WARM_UP, help="samples of each measurement" + default)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each pipeline" + default)
    return parser


if __name__ == "__main__":
    main()
