"""Progress of a run: a line for a person and a JSON row for a machine, figures of each corpus, and a summary."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fireedit.platform.console import say

Mean = Callable[[Mapping[str, Any]], dict[str, float]]
WINDOW = 20
"""Steps whose mean losses stand for the beginning and the end of a run; half of a run that is shorter than two."""


@dataclass
class Progress:
    """Means of losses and speed since the last report, and the time that the rest of the run will take."""

    steps: int
    """Steps of the whole run; 0 if a clock ends it."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Reports so far, with the earlier ones of a resumed run."""
    shown: bool = True
    """Print a line at each report; False only keeps the rows."""
    _losses: dict[str, Any] = field(default_factory=dict)
    _passes: int = 0
    _samples: int = 0
    _waited_s: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    def add(self, losses: Mapping[str, Any], samples: int, waited_s: float) -> None:
        """Count one forward pass: its losses, its samples on all workers, and its wait for data.

        Losses may be tensors: they are only added up, so that the host waits for no device before `report`.
        """
        for name, value in losses.items():
            self._losses[name] = self._losses.get(name, 0.0) + value
        self._passes += 1
        self._samples += samples
        self._waited_s += waited_s

    def report(
        self,
        step: int,
        learning_rate: float,
        grad_norm: float,
        mean: Mean = lambda losses: dict(losses),
        more: Mapping[str, float] | None = None,
        left_s: float | None = None,
    ) -> dict[str, float]:
        """Print the run's state, keep it as a row, and begin the next stretch.

        Args:
            mean: averages over the workers.
            more: figures for the row alone.
            left_s: seconds until a clock ends the run, unless its steps end it before.
        """
        elapsed_s = time.perf_counter() - self._started
        means = mean({name: total / self._passes for name, total in self._losses.items()})
        row = {
            "step": step,
            **means,
            "lr": learning_rate,
            "grad_norm": grad_norm,
            "samples_per_s": self._samples / elapsed_s,
            "data_wait_share": self._waited_s / elapsed_s,
            **(more or {}),
        }
        if self.shown:
            say(self._line(row, means, elapsed_s, left_s))
        self.rows.append(row)
        self._losses, self._passes, self._samples, self._waited_s = {}, 0, 0, 0.0
        self._started = time.perf_counter()
        return row

    def _line(
        self, row: Mapping[str, float], means: Mapping[str, float], elapsed_s: float, left_s: float | None
    ) -> str:
        """Format a row for a person.

        step   1200/25000  loss 0.1432 (denoise 0.13, img 0.01)  lr 9.8e-06  grad 0.71  3.2 samples/s  wait 4%  left 12m
        """
        done = row["step"] - (self.rows[-1]["step"] if self.rows else 0)
        ends_s = [elapsed_s / done * (self.steps - row["step"])] if self.steps else []
        ends_s += [] if left_s is None else [max(left_s, 0.0)]
        total = f"/{self.steps}" if self.steps else ""
        terms = ", ".join(f"{name} {value:.4f}" for name, value in means.items() if name != "loss")
        return (
            f"step {row['step']:>6}{total}  loss {means['loss']:.4f} ({terms})  lr {row['lr']:.1e}"
            f"  grad {row['grad_norm']:.2f}  {row['samples_per_s']:.1f} samples/s"
            f"  wait {row['data_wait_share']:.0%}  left {duration(min(ends_s))}"
        )


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

    def report(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
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


def from_lines(data: bytes) -> list[dict[str, float]]:
    """Read rows that `to_lines` wrote."""
    return [json.loads(line) for line in data.decode().splitlines()]


def window_mean(rows: Sequence[Mapping[str, float]], first: float, last: float) -> dict[str, float]:
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
