"""What each corpus of a mixture contributes to a run: rows, share, epochs, and the loss of its samples."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


class Tally:
    """Counts rows and adds up losses by corpus.

    Args:
        sizes: corpus to its number of rows.
        drawn: rows of each that an earlier part of the run has drawn, on all workers.
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
        """Loss since the last report, share of the run and epochs of every corpus; `total` sums over the workers."""
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
