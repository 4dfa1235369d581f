"""Every sample is drawn once, used soon, and repeated only where drawing is slower than training."""

import time
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from fireedit.jobs.training.pool import SamplePool

CPU = torch.device("cpu")


def numbered(seed: int) -> Mapping[str, Tensor]:
    """Encode a seed in fields of several types."""
    return {
        "seed": torch.tensor(seed),
        "pixels": torch.full((2, 3), seed % 256, dtype=torch.uint8),
        "ids": torch.arange(3, dtype=torch.int16) + seed,
        "half": torch.tensor(seed / 2),
        "odd": torch.tensor(seed % 2 == 1),
    }


def slow(seed: int) -> Mapping[str, Tensor]:
    time.sleep(0.02)
    return numbered(seed)


def failing(seed: int) -> Mapping[str, Tensor]:
    if seed > 3:
        raise ValueError("no such scene")
    return numbered(seed)


def test_without_workers_every_seed_is_used_once_and_in_order() -> None:
    with SamplePool(numbered, batch=4, workers=0, capacity=100, first=7) as pool:
        batches = [pool.take(CPU)["seed"].tolist() for _ in range(3)]
        assert batches == [[7, 8, 9, 10], [11, 12, 13, 14], [15, 16, 17, 18]]
        assert pool.drawn == 19


def test_a_sample_keeps_its_values_shapes_and_types() -> None:
    with SamplePool(numbered, batch=2, workers=0, capacity=8, first=301) as pool:
        batch = pool.take(CPU)
    for row, seed in enumerate((301, 302)):
        for name, value in numbered(seed).items():
            assert batch[name].dtype == value.dtype and torch.equal(batch[name][row], value)


def test_workers_draw_fresh_seeds_and_a_slow_training_uses_each_once() -> None:
    with SamplePool(numbered, batch=4, workers=2, capacity=64) as pool:
        used = []
        for _ in range(20):
            time.sleep(0.03)
            used += pool.take(CPU)["seed"].tolist()
        assert len(set(used)) == len(used) == 80
        assert max(used) < 80 + (SamplePool.AHEAD + 2) * 4, "workers stay a few batches ahead"
        assert pool.drawn > max(used)


def test_a_fast_training_repeats_samples() -> None:
    with SamplePool(slow, batch=4, workers=1, capacity=64) as pool:
        used = [seed for _ in range(30) for seed in pool.take(CPU)["seed"].tolist()]
    assert len(set(used)) < len(used) == 120


def test_the_oldest_samples_are_overwritten() -> None:
    with SamplePool(numbered, batch=4, workers=0, capacity=8) as pool:
        for _ in range(5):
            last = pool.take(CPU)["seed"].tolist()
        assert last == [16, 17, 18, 19] and pool.filled == 20


def test_a_worker_that_fails_ends_the_training(capfd: pytest.CaptureFixture[str]) -> None:
    with SamplePool(failing, batch=8, workers=1, capacity=64) as pool, pytest.raises(RuntimeError, match="exit code 1"):
        pool.take(CPU)
    assert "no such scene" in capfd.readouterr().err
