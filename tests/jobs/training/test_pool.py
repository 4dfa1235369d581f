"""Every sample is drawn once, seen soon, and seen again only where drawing is the slower one."""

import time
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from fireedit.jobs.training.pool import FreshPool
from fireedit.platform.scenes.render import Renderer

CPU = torch.device("cpu")


def numbered(renderer: Renderer, seed: int) -> Mapping[str, Tensor]:
    """A sample that says its seed in fields of several kinds."""
    return {
        "seed": torch.tensor(seed),
        "pixels": torch.full((2, 3), seed % 256, dtype=torch.uint8),
        "ids": torch.arange(3, dtype=torch.int16) + seed,
        "half": torch.tensor(seed / 2),
        "odd": torch.tensor(seed % 2 == 1),
    }


def slow(renderer: Renderer, seed: int) -> Mapping[str, Tensor]:
    time.sleep(0.02)
    return numbered(renderer, seed)


def failing(renderer: Renderer, seed: int) -> Mapping[str, Tensor]:
    if seed > 3:
        raise ValueError("no such scene")
    return numbered(renderer, seed)


def test_without_processes_every_seed_is_taken_once_and_in_order() -> None:
    with FreshPool(numbered, batch=4, workers=0, capacity=100, first=7) as pool:
        taken = [pool.take(CPU)["seed"].tolist() for _ in range(3)]
        assert taken == [[7, 8, 9, 10], [11, 12, 13, 14], [15, 16, 17, 18]]
        assert pool.drawn == 19


def test_a_sample_keeps_its_values_shapes_and_types() -> None:
    with FreshPool(numbered, batch=2, workers=0, capacity=8, first=301) as pool:
        batch = pool.take(CPU)
    for row, seed in enumerate((301, 302)):
        for name, value in numbered(Renderer(), seed).items():
            assert batch[name].dtype == value.dtype and torch.equal(batch[name][row], value)


def test_processes_draw_seeds_that_nobody_has_seen_and_a_slow_training_sees_each_once() -> None:
    with FreshPool(numbered, batch=4, workers=2, capacity=64) as pool:
        seen = []
        for _ in range(20):
            time.sleep(0.03)
            seen += pool.take(CPU)["seed"].tolist()
        assert len(set(seen)) == len(seen) == 80
        assert max(seen) < 80 + (FreshPool.AHEAD + 2) * 4, "drawing is held back to a few batches more"
        assert pool.drawn > max(seen)


def test_a_fast_training_sees_samples_again() -> None:
    with FreshPool(slow, batch=4, workers=1, capacity=64) as pool:
        seen = [seed for _ in range(30) for seed in pool.take(CPU)["seed"].tolist()]
    assert len(set(seen)) < len(seen) == 120


def test_the_oldest_make_room() -> None:
    with FreshPool(numbered, batch=4, workers=0, capacity=8) as pool:
        for _ in range(5):
            last = pool.take(CPU)["seed"].tolist()
        assert last == [16, 17, 18, 19] and pool._rows is not None and len(pool._rows) == 8


def test_a_process_that_fails_ends_the_training(capfd: pytest.CaptureFixture[str]) -> None:
    with FreshPool(failing, batch=8, workers=1, capacity=64) as pool, pytest.raises(RuntimeError, match="exit code 1"):
        pool.take(CPU)
    assert "no such scene" in capfd.readouterr().err
