"""Figures of a run between two reports: means of losses, speed, waits, use of the device, and corpora's shares."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Row = dict[str, float]
"""Figures of a report, by name."""
WINDOW = 20
"""Steps whose mean losses stand for the beginning and the end of a run; half of a run that is shorter than two."""


@dataclass
class Progress:
    """Means of losses and speed since the last report."""

    workers: int = 1
    peak_flops: float | None = None
    """Operations a second that a worker's device can do; None: no MFU."""
    sample_flops: float | None = None
    """Operations that a sample takes, without recomputation."""
    _losses: dict[str, Any] = field(default_factory=dict)
    _passes: int = 0
    _samples: int = 0
    _waited_s: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    def add(self, losses: Mapping[str, Any], samples: int, waited_s: float) -> None:
        """Count one forward pass: its losses, its samples on this worker, and its wait for data.

        Losses may be tensors: they are only added up, so that the host waits for no device before `report`.
        """
        for name, value in losses.items():
            self._losses[name] = self._losses.get(name, 0.0) + value
        self._passes += 1
        self._samples += samples * self.workers
        self._waited_s += waited_s

    def report(self, step: int, mean: Callable[[Mapping[str, Any]], Row], more: Mapping[str, float]) -> Row:
        """Make the row of a step, and begin the next stretch.

        Args:
            mean: averages over the workers.
            more: figures that the caller knows.
        """
        means = mean({name: total / self._passes for name, total in self._losses.items()})
        elapsed_s = time.perf_counter() - self._started  # the means have waited for the device
        speed = self._samples / elapsed_s
        row = {"step": step, **means, "samples_per_s": speed, "data_wait_share": self._waited_s / elapsed_s, **more}
        if self.peak_flops and self.sample_flops:
            row["mfu"] = speed * self.sample_flops / (self.peak_flops * self.workers)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            row["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
            torch.cuda.reset_peak_memory_stats()
        self._losses, self._passes, self._samples, self._waited_s = {}, 0, 0, 0.0
        self._started = time.perf_counter()
        return row


class CorpusTally:
    """Rows, share, epochs and mean loss of each corpus of a mixture.

    Args:
        sizes: corpus to its number of rows.
        drawn: corpus to its rows in earlier sittings of the run, on all workers.
    """

    def __init__(self, sizes: Mapping[str, int], drawn: Mapping[str, int]):
        self._sizes, self._places = dict(sizes), {name: place for place, name in enumerate(sizes)}
        self.drawn = {name: drawn.get(name, 0) for name in sizes}
        """Rows of each corpus so far, on all workers, as of the last report."""
        self._sums = torch.zeros(2, len(sizes))

    def add(self, corpora: Sequence[str], losses: Tensor) -> None:
        """Count a batch; its samples' losses [B] stay on their device until `report`."""
        self._sums = self._sums.to(losses.device)
        places = torch.tensor([self._places[name] for name in corpora], device=losses.device)
        self._sums.index_add_(1, places, torch.stack([torch.ones_like(losses), losses]))

    def report(self, total: Callable[[Tensor], Tensor]) -> Row:
        """Give every corpus's loss since the last report, share of the run and epochs; `total` sums over workers."""
        counts, losses = total(self._sums).tolist()
        self._sums = torch.zeros_like(self._sums)
        self.drawn = {name: self.drawn[name] + round(count) for name, count in zip(self._sizes, counts, strict=True)}
        rows = sum(self.drawn.values())
        figures = {}
        for name, count, loss in zip(self._sizes, counts, losses, strict=True):
            if count:
                figures[f"loss/{name}"] = loss / count
            figures[f"share/{name}"] = self.drawn[name] / max(rows, 1)
            figures[f"epochs/{name}"] = self.drawn[name] / self._sizes[name]
        return figures


def summarize(rows: Sequence[Mapping[str, float]], mixture: Mapping[str, float], log_every: int) -> dict[str, Any]:
    """Summarize a run: first and last losses, speed, and the figures of each corpus.

    Args:
        rows: all reports of the run, one every `log_every` steps.
        mixture: corpus to its weight.
    """
    end = rows[-1]["step"]
    window = max(log_every, min(WINDOW, end // 2))
    first, last = window_mean(rows, 0, window), window_mean(rows, end - window, end)
    return {
        "step": end,
        "first": {name: value for name, value in first.items() if "/" not in name},  # the figures of no single corpus
        "last": {name: value for name, value in last.items() if "/" not in name},
        "samples_per_s": window_mean(rows, 0, end)["samples_per_s"],
        "mixture": {
            name: {
                "weight": weight / sum(mixture.values()),
                "share": rows[-1][f"share/{name}"],
                "epochs": rows[-1][f"epochs/{name}"],
                "loss": last.get(f"loss/{name}"),
            }
            for name, weight in mixture.items()
        },
    }


def to_lines(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Write rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def from_lines(data: bytes) -> list[Row]:
    """Read rows that `to_lines` wrote."""
    return [json.loads(line) for line in data.decode().splitlines()]


def window_mean(rows: Sequence[Mapping[str, float]], first: float, last: float) -> Row:
    """Average every figure over the reports of steps first < step <= last that have it."""
    figures: dict[str, list[float]] = {}
    for row in rows:
        if first < row["step"] <= last:
            for name, value in row.items():
                figures.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in figures.items() if name != "step"}


def duration(seconds: float) -> str:
    """Format seconds as `1h12m`, `3m05s` or `8s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
