"""The benchmark of one card writes what it has after every row, whatever ends it."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fireedit.benchmarks import gpu
from fireedit.benchmarks.gpu import PARTS, Bench, Part, main, run
from fireedit.benchmarks.speed.report import begin

CPU = torch.device("cpu")


def test_parts_of_a_tiny_run_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)  # tests of models/speed.py compile
    parts = ["roofline", "edit", "edit, all switches", "diffusers", "memory", "throughput"]
    assert main(["--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", *parts]) == 0
    result = json.loads((tmp_path / "cpu-tiny.json").read_text())
    assert list(result["parts"]) == parts and all(result["parts"].values()) and not result["left_out"]
    plain, compiled = result["parts"]["edit"][0], result["parts"]["edit, all switches"]
    assert [row["steps"] for row in (plain, *compiled)] == [4, 4, 8] and plain["flops_per_s"] > 1e9
    assert [row["pictures"] for row in result["parts"]["throughput"]] == [1, 4]
    assert [row["stage"] for row in result["parts"]["memory"]] == ["perceive", "understand", "paint", "whole"]
    page = (tmp_path / "cpu-tiny.md").read_text()
    assert "## Diffusers" in page and "share of the measured matmul" in page
    assert json.loads(capsys.readouterr().out)["out"] == str(tmp_path / "cpu-tiny.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cpu-tiny.json", "cpu-tiny.md"]


def rows_then(action: Any) -> Any:
    def rows(_: Bench) -> Iterator[dict[str, Any]]:
        yield {"done": 1}
        action()
        yield {"done": 2}

    return rows


def run_parts(tmp_path: Path, minutes: float, *parts: Part, tiny: bool = True) -> dict[str, Any]:
    result = begin("cpu", tiny, "float32", minutes)
    run(Bench(CPU, torch.float32, tiny, minutes, on_ray=False), parts, result, tmp_path / "cpu.json")
    assert json.loads((tmp_path / "cpu.json").read_text()) == result
    return result


def fails() -> None:
    raise RuntimeError("out of memory\nand more")


@pytest.mark.parametrize("end", [lambda: signal.pause(), lambda: os.kill(os.getpid(), signal.SIGTERM)])
def test_a_run_that_is_cut_off_keeps_its_rows(tmp_path: Path, end: Any) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    parts = [
        Part("whole", rows_then(lambda: None), 0),
        Part("half", rows_then(end), 0),
        Part("none", rows_then(end), 0),
    ]
    result = run_parts(tmp_path, 0.01, *parts)
    assert result["parts"] == {"whole": [{"done": 1}, {"done": 2}], "half": [{"done": 1}]}
    assert result["left_out"] == {"half": "cut off", "none": "cut off"}
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_part_that_fails_ends_no_other(tmp_path: Path) -> None:
    result = run_parts(tmp_path, 1, Part("bad", rows_then(fails), 0), Part("good", rows_then(lambda: None), 0))
    assert result["left_out"] == {"bad": "RuntimeError: out of memory"} and len(result["parts"]["good"]) == 2


def test_a_part_without_time_is_not_begun(tmp_path: Path) -> None:
    result = run_parts(tmp_path, 1, Part("long", rows_then(fails), 100), tiny=False)
    assert result["left_out"] == {"long": "no time left"} and result["parts"] == {}


def test_a_missing_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="finds no GPU; write --device cpu --tiny"):
        main([])


def test_the_roofline_comes_first_and_every_part_has_a_name() -> None:
    assert PARTS[0].name == "roofline" and len({part.name for part in PARTS}) == len(PARTS)
