"""Our input pipeline beside PyTorch's DataLoader and webdataset: `python benchmarks/data.py [--rounds N] [...]`.

All three decode, resize and tokenise the same JPEG pairs through the same functions into the same batches, with as many
worker processes on as many cores, each shuffling in its usual way: ours exactly, from shards; the DataLoader
(shuffle=True) exactly, from loose files, its best case, since random rows of parquet cost it whole row groups; and
webdataset within a buffer as large as our shuffle's window, from tars. Every measurement runs in processes of its own;
the three take turns, so that whatever else the machine does meets all of them. Then a short run of training says how
much of its time it waits for data.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import psutil
import webdataset
from torch.utils.data import DataLoader, Dataset, RandomSampler
from transformers import AutoTokenizer

from fireedit.models.model import NANO, preset
from fireedit.models.processor import Batch, Processor, ProcessorConfig
from fireedit.models.tokens import PromptError
from fireedit.platform import storage
from fireedit.platform.cluster import start_ray
from fireedit.platform.console import say
from fireedit.platform.data import shards
from fireedit.platform.data.conversion import ConversionConfig
from fireedit.platform.data.ingest import Corpora, IngestConfig, Share, prepared_batches, stacked
from fireedit.platform.data.preparation import prepare_scenes, prepare_shards
from fireedit.platform.images import decode

CORPUS = "instructpix2pix"
TRAIN = pathlib.Path(__file__).resolve().parents[1] / "jobs" / "train.py"
ROWS_PER_TAR = 128
ENDLESS = 1 << 20
"""Samples; more than any measurement takes."""
WARM = 2048
"""Samples that warm a pipeline up; a measurement takes some times as many."""
LOOKS = 16
"""At the memory, after a measurement."""
PICTURES = ("source", "target")
FORK = "fork"
"""How a DataLoader's workers start, as they do on Linux by themselves unless their parent was spawned."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all three pipelines read, and what they make of it."""

    folder: str
    """Holds the pairs as shards, as loose files and in tars; what is missing is made."""
    pairs: int = 1500
    size: int = 512
    """Pixels a side of the stored pictures."""
    view: int = 224
    canvas: int = 256
    batch: int = 16
    workers: int = 2
    """Processes that decode, and cores that everything runs on."""

    @property
    def copies(self) -> str:
        return storage.join(self.folder, "copies")

    @property
    def side(self) -> int:
        return max(self.view, self.canvas)


@dataclass(frozen=True)
class Reading:
    """What one measurement came to."""

    samples_per_s: float
    samples_per_cpu_s: float
    """CPU seconds of all processes, Ray's own among them."""
    rss_mb: float
    """The most that all processes held at once; a page that several share is counted for each."""
    pss_mb: float
    """Likewise, each page counted once."""


def main() -> None:
    asked = _parser().parse_args()
    setup = Setup(
        folder=storage.join(storage.absolute(asked.out), f"{asked.pairs}x{asked.size}"),
        **{name: getattr(asked, name) for name in ("pairs", "size", "view", "canvas", "batch", "workers")},
    )
    alone(prepare, setup)
    readings: dict[str, list[Reading]] = {name: [] for name in PIPELINES}
    for number in range(asked.rounds):
        for name in rotated(list(PIPELINES), number):
            readings[name].append(alone(measure, name, setup, asked.samples))
            say(f"round {number + 1}/{asked.rounds}  {name:10s} {readings[name][-1].samples_per_s:6.1f} samples/s")
    report = compared(readings, setup.workers)
    say(table(report))
    if asked.train_steps:
        report["data_wait_share"] = data_wait_share(
            storage.join(storage.absolute(asked.out), "home"), asked.train_steps
        )
        say(f"training waits for data {report['data_wait_share']:.1%} of the time")
    print(json.dumps(report | asdict(setup)))


def prepare(setup: Setup) -> None:
    """Render the pairs, turn them into shards, and copy these into loose files and tars; what is there is kept."""
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
    """Nano's tokenizers and prompts at the setup's sizes."""
    tokenizers = {name: AutoTokenizer.from_pretrained(NANO / name) for name in ("vlm_tokenizer", "tokenizer")}
    config = replace(ProcessorConfig.of(preset("nano")), view_size=setup.view, canvas_size=setup.canvas)
    return Processor(**tokenizers, config=config)


def from_ray_data(setup: Setup, samples: int = ENDLESS) -> Iterator[Batch]:
    """Our training's pipeline, as `jobs/train.py` uses it."""
    start_ray()
    processor = load_processor(setup)
    corpora = Corpora(storage.join(setup.folder, "shards"), {CORPUS: 1.0}, 0, IngestConfig(tasks=setup.workers))
    share, quarantine = Share(0, 1, setup.batch, 0, samples), storage.join(setup.folder, "quarantine")
    columns = prepared_batches(corpora, share, processor.row, PromptError, quarantine, setup.side)
    return map(processor.batch, columns)


def from_dataloader(setup: Setup, samples: int = ENDLESS) -> Iterator[Batch]:
    """PyTorch's DataLoader over loose files; one endless epoch, so that no worker waits for the next."""
    pictures = LoosePictures(setup)
    shuffled = RandomSampler(pictures, num_samples=samples)
    return iter(
        DataLoader(
            pictures,
            setup.batch,
            sampler=shuffled,
            num_workers=setup.workers,
            collate_fn=pictures.collate,
            multiprocessing_context=FORK,
        )
    )


def from_webdataset(setup: Setup, samples: int = ENDLESS) -> Iterator[Batch]:
    """webdataset over tars, shuffled and then decoded; it has no end, whatever `samples` says."""
    processor, side = load_processor(setup), setup.side
    window = IngestConfig().shuffle_groups * shards.ROWS_PER_GROUP
    tars = [storage.join(setup.copies, name) for name in storage.names(setup.copies) if name.endswith(".tar")]

    def row_of(sample: Mapping[str, Any]) -> dict[str, Any]:
        pictures = {name: sample[f"{name}.jpg"] for name in PICTURES}
        return row_from(json.loads(sample["json"]), pictures, processor, side)

    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(window).map(row_of)
    batches = dataset.batched(setup.batch, collation_fn=lambda rows: processor.batch(stacked(rows))).repeat()
    loader = webdataset.WebLoader(batches, batch_size=None, num_workers=setup.workers, multiprocessing_context=FORK)
    return iter(loader)


PIPELINES: dict[str, Callable[..., Iterator[Batch]]] = {
    "ours": from_ray_data,
    "dataloader": from_dataloader,
    "webdataset": from_webdataset,
}


class LoosePictures(Dataset[dict[str, Any]]):
    """The pairs as files in a folder, by number."""

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
    """What our pipeline does to a sample."""
    return processor.row({**row, **{name: decode(data, draft=side) for name, data in pictures.items()}})


def measure(pipeline: str, setup: Setup, samples: int) -> Reading:
    """Take so many samples from one pipeline, after the first WARM of them; then look at the memory for another."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: setup.workers])
    batches = PIPELINES[pipeline](setup)
    took(WARM, batches)
    used, began = cpu_seconds(), time.monotonic()
    taken = took(samples, batches)
    seconds = time.monotonic() - began
    spent = sum(after - used.get(process, 0.0) for process, after in cpu_seconds().items())
    rss = pss = 0.0
    for _ in range(LOOKS):  # each takes as long as some batches, and longer where there are more processes
        took(WARM // LOOKS, batches)
        rss, pss = (max(pair) for pair in zip((rss, pss), memory_mb(), strict=True))
    return Reading(taken / seconds, taken / spent, rss, pss)


def took(samples: int, batches: Iterator[Batch]) -> int:
    """Take batches until they hold so many samples; how many that were."""
    taken = 0
    while taken < samples:
        taken += len(next(batches).ids)
    return taken


def cpu_seconds() -> dict[int, float]:
    """What this process and each below it have used, by process id."""
    found = {}
    for process in _tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def memory_mb() -> tuple[float, float]:
    """RSS and PSS of this process and all below it."""
    rss = pss = 0
    for process in _tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = process.memory_full_info()
            rss, pss = rss + memory.rss, pss + memory.pss
    return rss / 1e6, pss / 1e6


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a process of its own, whose children end with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def rotated(names: Sequence[T], by: int) -> list[T]:
    return [*names[by % len(names) :], *names[: by % len(names)]]


def compared(readings: Mapping[str, Sequence[Reading]], cores: int) -> dict[str, Any]:
    """Medians over the rounds, and ours against the better of the others."""
    pipelines: dict[str, dict[str, Any]] = {}
    for name, rounds in readings.items():
        columns = {key: [getattr(reading, key) for reading in rounds] for key in Reading.__dataclass_fields__}
        medians = {key: round(statistics.median(values), 1) for key, values in columns.items()}
        each = [round(value, 1) for value in columns["samples_per_s"]]
        pipelines[name] = medians | {
            "samples_per_s_per_core": round(medians["samples_per_s"] / cores, 1),
            "rounds": each,
        }

    def ratio(key: str) -> float:
        """Of each round's three, which ran after each other: the median."""
        ours, *others = ([getattr(one, key) for one in readings[name]] for name in PIPELINES)
        return round(statistics.median(a / max(b) for a, *b in zip(ours, *others, strict=True)), 3)

    return {"pipelines": pipelines, "ratio": ratio("samples_per_s"), "cpu_ratio": ratio("samples_per_cpu_s")}


def table(report: Mapping[str, Any]) -> str:
    keys = ("samples_per_s", "samples_per_s_per_core", "samples_per_cpu_s", "rss_mb", "pss_mb")
    out = io.StringIO()
    print(f"{'':12s}{'samples/s':>10s}{'a core':>10s}{'a CPU s':>10s}{'RSS MB':>10s}{'PSS MB':>10s}  rounds", file=out)
    for name, found in report["pipelines"].items():
        print(f"{name:12s}" + "".join(f"{found[key]:10.1f}" for key in keys) + f"  {found['rounds']}", file=out)
    print(f"ours to the better other: {report['ratio']:.2f}; by CPU time: {report['cpu_ratio']:.2f}", end="", file=out)
    return out.getvalue()


def data_wait_share(home: str, steps: int) -> float:
    """The share of its last window that a nano training of stage 2 waits for its next batch."""
    command = [sys.executable, str(TRAIN), "--stage", "2", f"steps={steps}", f"home={home}"]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])["last"]["data_wait_share"]


def _tree() -> list[psutil.Process]:
    here = psutil.Process()
    return [here, *here.children(recursive=True)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = " (default: %(default)s)"
    out = storage.join(storage.home(), "benchmarks", "data")
    parser.add_argument("--out", default=out, help="pictures are kept here for the next time" + default)
    parser.add_argument("--pairs", type=int, default=Setup.pairs, help="source and target pictures" + default)
    parser.add_argument("--size", type=int, default=Setup.size, help="pixels a side as stored" + default)
    parser.add_argument("--view", type=int, default=Setup.view, help="side of what the encoders see" + default)
    parser.add_argument("--canvas", type=int, default=Setup.canvas, help="side of what is painted" + default)
    parser.add_argument("--batch", type=int, default=Setup.batch, help="samples" + default)
    parser.add_argument("--workers", type=int, default=Setup.workers, help="processes, and cores" + default)
    parser.add_argument("--samples", type=int, default=2 * WARM, help="of each measurement" + default)
    parser.add_argument("--rounds", type=int, default=5, help="whose medians count" + default)
    parser.add_argument("--train-steps", type=int, default=60, help="0 leaves training out" + default)
    return parser


if __name__ == "__main__":
    main()
