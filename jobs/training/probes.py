"""What linear readers of states are taught with and judged by."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fireedit.models.tokens import IGNORED


def known_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of [N, K] where a label [N] is known; 0 if none is."""
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def share(hits: Sequence[Tensor]) -> float:
    """How many of all of them are true; 0 if there are none."""
    every = torch.cat([one.flatten() for one in hits]).float()
    return round(every.mean().item(), 4) if len(every) > 0 else 0.0
