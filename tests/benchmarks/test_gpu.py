"""The benchmark of one card writes what it has after every row, whatever ends it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fireedit.benchmarks import gpu
from fireedit.benchmarks.gpu import DRIFT, PARTS, Benchmark, Part, main
from fireedit.benchmarks.measuring import ProcessFailedError
from fireedit.benchmarks.speed.parts import MEASURES, Bench
from fireedit.benchmarks.speed.report import begin
from fireedit.models.layers.component import DTYPES

ROWS = [{"done": 1}, {"done": 2}]
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("ray", "deepspeed", "pycocotools", "pyarrow", "boto3")))
from fireedit.benchmarks import gpu
gpu.items_of = lambda function, *arguments, wait_s: function(*arguments)
gpu.main(["--device", "cpu", "--tiny", "--only", "roofline", "--out", sys.argv[1]])
"""


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Arguments of the processes that parts would run in; here they run in this one."""
    begun = list[Any]()

    def items_of(function: Callable[..., Iterable[Any]], *arguments: Any, wait_s: Callable[[], float]) -> Iterator[Any]:
        begun.append(arguments[0])
        try:
            for item in function(*arguments):
                if wait_s() <= 0:
                    raise TimeoutError
                yield item
        except RuntimeError as error:
            raise ProcessFailedError.of(error) from None

    monkeypatch.setattr(gpu, "items_of", items_of)
    return begun


def test_parts_of_a_tiny_run_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, processes: list[Any]
) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)  # tests of models/speed.py compile
    monkeypatch.setattr(Bench, "steps", 2)
    parts = ["roofline", "diffusers", "edit", "memory", "edit, compiled"]
    assert main(["--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", *parts]) == 0
    assert processes == [parts]
    result = json.loads((tmp_path / "cpu-tiny.json").read_text())
    assert list(result["parts"]) == parts and all(result["parts"].values()) and not result["left_out"]
    plain, compiled = result["parts"]["edit"], result["parts"]["edit, compiled"]
    assert [row["steps"] for row in (*plain, *compiled)] == [2, 4, 2, 2, 2, 4] and plain[0]["flops_per_s"] > 1e9
    assert [row["stage"] for row in result["parts"]["memory"]] == ["perceive", "understand", "paint", "whole"]
    assert compiled[0]["latents_apart"] < 1e-3
    page = (tmp_path / "cpu-tiny.md").read_text()
    assert "## Diffusers" in page and "share of the measured matmul" in page
    assert json.loads(capsys.readouterr().out)["out"] == str(tmp_path / "cpu-tiny.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cpu-tiny.json", "cpu-tiny.md"]


def test_edits_are_measured_without_the_packages_of_training(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, check=True)
    result = json.loads((tmp_path / "cpu-tiny.json").read_text())
    assert result["parts"]["roofline"][0]["matmul_flops"] > 0


def test_precisions_have_the_words_of_recipes() -> None:
    assert tuple(DTYPES) == gpu.PRECISIONS


def run_parts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    actions: Mapping[str, Callable[[], object]],
    *parts: Part,
    minutes: float = 1,
    tiny: bool = True,
) -> dict[str, Any]:
    """Run parts that give a row, act, and give another."""

    def measure(names: list[str], *_: object) -> Iterator[tuple[str, Any]]:
        for name in names:
            yield name, None
            yield name, ROWS[0]
            actions.get(name, lambda: None)()
            yield name, ROWS[1]

    monkeypatch.setattr(gpu, "_measure", measure)
    result = begin("cpu", tiny, "fp32", minutes)
    path = tmp_path / "cpu.json"
    Benchmark("cpu", "fp32", tiny, minutes, result, path, time.monotonic()).run(parts)
    assert json.loads(path.read_text()) == result
    return result


def fails() -> None:
    raise RuntimeError("out of memory\nand more")


def test_a_part_that_fails_ends_its_process_and_no_other_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[Any]
) -> None:
    parts = [Part(name, 0, 60, process) for name, process in [("a", "x"), ("bad", "x"), ("c", "x"), ("d", "")]]
    result = run_parts(tmp_path, monkeypatch, {"bad": fails}, *parts)
    assert processes == [["a", "bad", "c"], ["c"], ["d"]]
    assert result["parts"] == {"a": ROWS, "bad": ROWS[:1], "c": ROWS, "d": ROWS}
    assert result["left_out"] == {"bad": "RuntimeError: out of memory"}
    assert "in fails" in result["errors"]["bad"] and "and more" in result["errors"]["bad"]


def test_a_part_that_takes_too_long_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [Part("long", 0, 0.05, table="both"), Part("short", 0, 60, table="both")]
    result = run_parts(tmp_path, monkeypatch, {"long": lambda: time.sleep(0.1)}, *parts)
    assert result["parts"] == {"both": [ROWS[0], *ROWS]} and result["left_out"] == {"long": "killed after 0.05 s"}


def test_the_end_of_the_time_cuts_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [Part(name, 0, 60, "x") for name in ("whole", "half", "none")]
    result = run_parts(tmp_path, monkeypatch, {"half": lambda: time.sleep(0.3)}, *parts, minutes=0.25 / 60)
    assert result["parts"] == {"whole": ROWS, "half": ROWS[:1]}
    assert result["left_out"] == {"half": "cut off", "none": "no time left"}


def test_a_signal_cuts_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    actions = {"half": lambda: os.kill(os.getpid(), signal.SIGTERM)}
    result = run_parts(tmp_path, monkeypatch, actions, Part("half", 0, 60), Part("none", 0, 60))
    assert result["parts"] == {"half": ROWS[:1]} and result["left_out"] == {"half": "cut off", "none": "cut off"}
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_part_without_time_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[Any]
) -> None:
    parts = [Part("short", 1, 60, "x"), Part("long", 100, 60, "x"), Part("other", 1, 60, "x")]
    result = run_parts(tmp_path, monkeypatch, {}, *parts, tiny=False)
    assert result["left_out"] == {"long": "no time left"} and list(result["parts"]) == ["short", "other"]


def test_minutes_count_from_the_start_of_the_process(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--tiny", "--minutes", "2", "--out", str(tmp_path), "--only", "roofline"]
    assert main(arguments, begun=time.monotonic() - 120) == 0
    assert json.loads((tmp_path / "cpu-tiny.json").read_text())["left_out"] == {"roofline": "no time left"}


def test_a_missing_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="finds no GPU; write --device cpu --tiny"):
        main([])


def test_every_part_is_measured_and_the_roofline_comes_first() -> None:
    assert [part.name for part in PARTS] == list(MEASURES) and PARTS[0].name == "roofline" and DRIFT in MEASURES
