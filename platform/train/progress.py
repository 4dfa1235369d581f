"""What a run says while it trains: one line for a person, one JSON row for a machine."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

Mean = Callable[[Mapping[str, Any]], dict[str, float]]


@dataclass
class Progress:
    """Means of what happened since the last line, and how long the rest will take."""

    steps: int
    """Of the whole run; 0 if a clock ends it."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """All reports so far, a resumed run's earlier ones too."""
    stream: TextIO | None = field(default_factory=lambda: sys.stderr)
    """Where people read; None keeps it to the rows."""
    _losses: dict[str, Any] = field(default_factory=dict)
    _seen: int = 0
    _samples: int = 0
    _waited_s: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    def add(self, losses: Mapping[str, Any], samples: int, waited_s: float) -> None:
        """Count one forward pass: its losses, its samples on all workers, and how long it waited for data.

        Losses may be tensors: they are only added up, so that no device is waited for before `report`.
        """
        for name, value in losses.items():
            self._losses[name] = self._losses.get(name, 0.0) + value
        self._seen += 1
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
        """Say where the run stands, and begin the next stretch.

        Args:
            mean: averages over the workers.
            more: figures for the row alone.
            left_s: seconds until a clock ends the run, unless its steps end it before.

        A line reads

        step   1200/25000  loss 0.1432 (denoise 0.13, img 0.01)  lr 9.8e-06  grad 0.71  3.2 samples/s  wait 4%  left 12m
        """
        elapsed = time.perf_counter() - self._started
        means = mean({name: total / self._seen for name, total in self._losses.items()})
        row = {
            "step": step,
            **means,
            "lr": learning_rate,
            "grad_norm": grad_norm,
            "samples_per_s": self._samples / elapsed,
            "data_wait_share": self._waited_s / elapsed,
            **(more or {}),
        }
        if self.stream is not None:
            done = step - (self.rows[-1]["step"] if self.rows else 0)
            ends_s = [elapsed / done * (self.steps - step)] if self.steps else []
            ends_s += [] if left_s is None else [max(left_s, 0.0)]
            of = f"/{self.steps}" if self.steps else ""
            parts = ", ".join(f"{name} {value:.4f}" for name, value in means.items() if name != "loss")
            print(
                f"step {step:>6}{of}  loss {means['loss']:.4f} ({parts})  lr {learning_rate:.1e}"
                f"  grad {grad_norm:.2f}  {row['samples_per_s']:.1f} samples/s"
                f"  wait {row['data_wait_share']:.0%}  left {duration(min(ends_s))}",
                file=self.stream,
                flush=True,
            )
        self.rows.append(row)
        self._losses, self._seen, self._samples, self._waited_s = {}, 0, 0, 0.0
        self._started = time.perf_counter()
        return row


def to_lines(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def from_lines(data: bytes) -> list[dict[str, float]]:
    """The inverse of `to_lines`."""
    return [json.loads(line) for line in data.decode().splitlines()]


def window_mean(rows: Sequence[Mapping[str, float]], first: float, last: float) -> dict[str, float]:
    """Mean of every figure over the reports of steps first < step <= last that have it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if first < row["step"] <= last:
            for name, value in row.items():
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items() if name != "step"}


def duration(seconds: float) -> str:
    """`1h12m`, `3m05s` or `8s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
