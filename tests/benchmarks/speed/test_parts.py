"""Parts of the benchmark give the rows that they can."""

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fireedit.benchmarks.speed import parts
from fireedit.benchmarks.speed.parts import ALL_COMPILED, Bench, llm_weights, training_goal
from fireedit.models import speed


@pytest.fixture
def bench() -> Bench:
    edits: Any = SimpleNamespace(edit=lambda *_: torch.zeros(1), pipeline=SimpleNamespace(vlm=torch.nn.Identity()))
    return Bench(torch.device("cpu"), torch.float32, True, ExitStack(), edits)


def test_a_step_that_zero_fails_in_is_measured_without(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(_: Bench, stage: int, zero: int | None) -> Any:
        if zero is not None:
            raise ImportError("no deepspeed\nhere")
        yield {"stage": stage, "zero": zero}

    monkeypatch.setattr(parts, "training_step", step)
    assert list(training_goal(bench)) == [{"stage": 3, "zero": None, "zero_1": "ImportError: no deepspeed"}]


def test_missing_torchao_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = bench.edits
    monkeypatch.setattr(parts.Edits, "fresh", lambda *_: edits)
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    monkeypatch.setattr(parts, "accelerate", lambda pipeline, switches: speed.quantize(pipeline.vlm, "int8"))
    rows = list(llm_weights(bench))
    assert [row["switches"] for row in rows] == ["llm_weights int8", "llm_weights fp8"]
    assert "pip install torchao" in rows[0]["skipped"]


def test_a_guided_edit_runs_in_compiled_sizes() -> None:
    assert ALL_COMPILED.compile == {"unet": (1, 3), "tati": (1,), "encoder": (1,), "decoder": (1,)}
    assert not ALL_COMPILED.share_keys and not ALL_COMPILED.prefixes
