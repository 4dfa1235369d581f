"""Parts of the benchmark give the rows that they can."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fireedit.benchmarks.speed import parts
from fireedit.benchmarks.speed.parts import (
    IN_TURN,
    OFF,
    Bench,
    compiled_edit,
    compiled_share_keys,
    compiled_throughput,
    llm_weights,
    switches_in_turn,
    throughput,
    training_goal,
)
from fireedit.models.speed import SpeedConfig

LATENTS = torch.zeros(1)


class StandIn:
    """Stand-in of `Edits` that notes the switches it is measured with."""

    def __init__(self) -> None:
        self.pipeline = SimpleNamespace()
        self.speed = OFF

    def edit(self, *_: object) -> torch.Tensor:
        assert self.speed == OFF or self.speed.compile
        return LATENTS

    @contextmanager
    def switched(self, speed: SpeedConfig) -> Iterator[None]:
        self.speed = speed
        yield
        self.speed = OFF

    def throughput(self, _: int, counts: tuple[int, ...]) -> Iterator[dict[str, Any]]:
        yield from ({"pictures": count} for count in counts)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    edits: Any = StandIn()

    def measure(_: Bench, switches: str, steps: int, skips: bool = False, **options: Any) -> dict[str, Any]:
        return {"name": switches, "steps": steps, "skips": skips, "speed": edits.speed, **options}

    monkeypatch.setattr(Bench, "measure", measure)
    return Bench(torch.device("cpu"), torch.float32, False, ExitStack(), edits)


def test_compiled_edits_are_compared_with_plain_ones(bench: Bench) -> None:
    steps, whole, served, more = compiled_edit(bench)
    assert set(steps["speed"].compile) == {"unet", "tati"} and set(whole["speed"].compile) > {"encoder", "decoder"}
    assert steps["plain"] is whole["plain"] is LATENTS and whole["speed"].backend == "eager"
    assert served["noise_from"] == "cpu" and "as served" in served["name"] and "plain" not in served
    assert [row["steps"] for row in (steps, whole, served, more)] == [50, 50, 50, 100]
    assert whole["speed"].compile == {"unet": (1, 3), "tati": (1,), "encoder": (1,), "decoder": (1,)}
    assert {(row["speed"].share_keys, row["speed"].prefixes) for row in (steps, whole, served, more)} == {(False, 0)}
    (shared,) = compiled_share_keys(bench)
    assert shared["speed"] == replace(whole["speed"], share_keys=True)


def test_each_switch_is_measured_alone(bench: Bench) -> None:
    *rows, served = switches_in_turn(bench)
    assert [row["speed"] for row in rows] == [SpeedConfig(**change) for change in IN_TURN.values()]
    assert [row["skips"] for row in rows] == [False, False, True, True, False]
    assert served["speed"] == OFF and served["noise_from"] == "cpu"


def test_batches_are_measured_plain_and_with_channels_last_and_compiled(bench: Bench) -> None:
    found = [(row["switches"], row["pictures"]) for row in (*throughput(bench), *compiled_throughput(bench))]
    plain = [("plain", count) for count in (1, 4, 8, 16)]
    assert found == [*plain, ("channels_last", 8), ("channels_last, UNet compiled", 8)]


def test_a_step_that_zero_fails_in_is_measured_without(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(_: Bench, stage: int, zero: int | None) -> Any:
        if zero is not None:
            raise ImportError("no deepspeed\nhere")
        yield {"stage": stage, "zero": zero}

    monkeypatch.setattr(parts, "training_step", step)
    assert list(training_goal(bench)) == [{"stage": 3, "zero": None, "zero_1": "ImportError: no deepspeed"}]


def test_missing_torchao_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = bench.edits

    def accelerate(_: object, speed: SpeedConfig) -> None:
        raise ImportError(f"{speed.llm_weights} needs torchao")

    monkeypatch.setattr(parts.Edits, "fresh", lambda *_: edits)
    monkeypatch.setattr(parts, "accelerate", accelerate)
    assert list(llm_weights(bench)) == [
        {"switches": f"llm_weights {weights}", "skipped": f"{weights} needs torchao"} for weights in ("int8", "fp8")
    ]
