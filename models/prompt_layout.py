"""Layout of prompts: places of text, image and region tokens in the LLM's input, and of the states that are read.

It is computed on the CPU from token ids and counts, so that no step on a GPU waits for a position or a length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fireedit.models.layers.device import to_device
from fireedit.models.tokens import IGNORED, PADDING


@dataclass(frozen=True, kw_only=True)
class PromptLayout:
    """Places in B sequences of length L: prompts with visual tokens after their marks, padded on the right."""

    length: int
    """L, of the longest."""
    positions: Tensor
    """int64 [B, T + N]: place of each text token and of each visual token; L for padding and tokens without a mark."""
    first_img: Tensor
    """int64 [B], place of the first [IMG] token; 0 in a prompt without."""
    has_img: Tensor
    """bool [B]."""
    labelled: Tensor
    """int64 [M], labelled tokens in the flattened input ids [B T]."""
    predictors: Tensor
    """int64 [M], states that predict them, in the flattened sequences [B L]."""
    targets: Tensor
    """int64 [M], their labels."""
    counts: Tensor
    """int64 [B], labelled tokens of each prompt."""

    @classmethod
    def of(cls, input_ids: Tensor, labels: Tensor, visual: Mapping[int, Sequence[int]], first_img: int) -> Self:
        """Lay out prompts.

        Args:
            input_ids, labels: [B, T] on the CPU, right-padded with PADDING and IGNORED.
            visual: id of a mark to the numbers [B] of tokens inserted after it, in the order of `positions`, where each
                prompt takes as many places as the largest number.
            first_img: id of the first [IMG] token; those from it on are [IMG] tokens.
        """
        columns = input_ids.shape[1]
        orders = [_order(ids, columns, visual, row) for row, ids in enumerate(input_ids.tolist())]
        length = max(map(len, orders))
        positions = torch.full((len(orders), columns + sum(map(max, visual.values()))), length)
        for row, order in enumerate(orders):
            positions[row, order] = torch.arange(len(order))

        is_img = input_ids >= first_img
        is_labelled = (labels != IGNORED) & (input_ids != PADDING)
        is_labelled[:, 0] = False  # nothing precedes it
        rows, labelled_columns = is_labelled.nonzero(as_tuple=True)
        return cls(
            length=length,
            positions=positions,
            first_img=positions.gather(1, is_img.int().argmax(dim=1, keepdim=True))[:, 0],
            has_img=is_img.any(dim=1),
            labelled=rows * columns + labelled_columns,
            predictors=rows * length + positions[rows, labelled_columns] - 1,
            targets=labels[rows, labelled_columns],
            counts=is_labelled.sum(dim=1),
        )

    def to(self, device: torch.device) -> Self:
        tensors = {name: to_device(value, device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return type(self)(length=self.length, **tensors)


def _order(ids: Sequence[int], columns: int, visual: Mapping[int, Sequence[int]], row: int) -> list[int]:
    """List the columns of `PromptLayout.positions` in the order of their tokens in the sequence of prompt `row`."""
    inserted, start = {}, columns
    for mark, counts in visual.items():
        inserted[mark] = range(start, start + counts[row])
        start += max(counts)
    order = list[int]()
    for column, token in enumerate(ids):
        if token == PADDING:
            break
        order += [column, *inserted.get(token, ())]
    return order
