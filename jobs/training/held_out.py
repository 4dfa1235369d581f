"""Evaluation of pretrained parts: held-out scenes, and losses and accuracies of linear probes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from fireedit.models.tokens import IGNORED
from fireedit.platform.scenes.world import WORLDS

HELD_OUT = WORLDS["unseen_seeds"]
"""World that parts are evaluated on; training never draws its seeds."""
SHOWN = 12
"""Samples on a part's sheet."""
RIGHT, WRONG = (40, 120, 70), (170, 50, 50)
"""RGB of the title bars of cards on a sheet."""


def held_out_batches(draw: Callable[[int], Mapping[str, Any]], samples: int, batch: int) -> DataLoader[Any]:
    """Draw the first `samples` held-out samples, of fixed shapes, in batches."""
    seeds = cast("Dataset[int]", HELD_OUT.seeds[:samples])
    return DataLoader(seeds, batch, collate_fn=lambda chunk: default_collate([draw(seed) for seed in chunk]))


def known_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of logits [..., K] over the labels [...] that are not IGNORED; 0 if there are none."""
    total = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def accuracy(hits: Sequence[Tensor]) -> float:
    """Share of true values in boolean tensors; 0 if they are empty."""
    values = torch.cat([tensor.flatten() for tensor in hits]).float()
    return round(values.mean().item(), 4) if len(values) > 0 else 0.0
