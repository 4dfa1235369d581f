"""Held-out scenes that figures are taken on."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import DataLoader, Dataset

from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.world import WORLDS

Draw = Callable[[Renderer, int], Mapping[str, Any]]
"""From a seed of a world to one sample, of tensors of fixed sizes and of words."""

HELD_OUT = WORLDS["unseen_seeds"]
"""What figures are taken on."""


class Scenes(Dataset[Mapping[str, Any]]):
    """The samples of seeds `first`, ..., `last` - 1."""

    def __init__(self, draw: Draw, first: int, last: int):
        self.draw, self.first, self.last = draw, first, last
        self.renderer = Renderer()

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        return self.draw(self.renderer, self.first + number)


def held_out_batches(draw: Draw, samples: int, batch: int) -> DataLoader[Any]:
    """So many samples that training never draws."""
    return DataLoader(Scenes(draw, HELD_OUT.seeds[0], HELD_OUT.seeds[samples]), batch)
