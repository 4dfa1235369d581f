"""Drawn scenes as training data: a function of their numbers, so that a run can be taken up at any step."""

import signal
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.scenes.world import TRAIN, WORLDS

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


def training_batches(draw: Draw, first: int, last: int, batch: int, workers: int) -> DataLoader[Any]:
    """The batches of steps `first` + 1, ..., `last`, drawn from seeds of training that no other step draws from."""
    return _loader(Scenes(draw, TRAIN.seeds[first * batch], TRAIN.seeds[last * batch]), batch, workers)


def held_out_batches(draw: Draw, samples: int, batch: int) -> DataLoader[Any]:
    """So many samples that training never draws."""
    return _loader(Scenes(draw, HELD_OUT.seeds[0], HELD_OUT.seeds[samples]), batch, workers=0)


def _loader(scenes: Scenes, batch: int, workers: int) -> DataLoader[Any]:
    return DataLoader(scenes, batch, num_workers=workers, worker_init_fn=_work_quietly if workers else None)


def _work_quietly(worker: int) -> None:
    """On one core, and to the end: only the training itself is told to stop."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
