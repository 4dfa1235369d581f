"""What a run came to: its first and last losses, its speed, and what became of every corpus."""

from collections.abc import Mapping, Sequence
from typing import Any

from fireedit.platform.train.progress import window_mean

WINDOW = 20
"""Steps whose mean losses stand for the beginning and the end of a run; half of a run that is shorter than two."""


def summarize(rows: Sequence[Mapping[str, float]], mixture: Mapping[str, float], log_every: int) -> dict[str, Any]:
    """The figures of a run.

    Args:
        rows: everything that it reported, every `log_every` steps.
        mixture: corpus to its weight.
    """
    end = rows[-1]["step"]
    window = max(log_every, min(WINDOW, end // 2))
    first, last = window_mean(rows, 0, window), window_mean(rows, end - window, end)
    return {
        "step": end,
        "first": {name: value for name, value in first.items() if "/" not in name},  # those that are not of one corpus
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
