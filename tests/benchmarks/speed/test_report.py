"""The page has the goals beside what was measured, and units on every figure."""

from typing import Any

import pytest

from fireedit.benchmarks.speed import report
from fireedit.benchmarks.speed.report import begin, goals, to_markdown


@pytest.fixture
def result() -> dict[str, Any]:
    result = begin("NVIDIA-H100", False, "bfloat16", 5)
    edit = {"switches": "plain", "steps": 50, "edit_s": 2.0, "step_ms": 30.0, "flops_per_s": 8e13, "peak_gib": 18.0}
    result["parts"] = {
        "roofline": [{"matmul_flops": 7e14, "copy_bytes": 2e12, "peak_flops": 1e15}],
        "edit": [edit],
        "edit, compiled": [
            edit | {"edit_s": 0.9},
            edit | {"edit_s": 0.7, "step_ms": 10.0},
            edit | {"steps": 100, "edit_s": 0.6},
        ],
        "diffusers": [{"pipeline": "float16", "steps": 50, "edit_s": 2.5, "step_ms": 40.0}],
        "memory": [{"stage": "whole", "weights_gib": 16.0, "peak_gib": 21.0}],
        "training": [
            {"stage": 3, "zero": 1, "llm_unet_flops_per_s": 4e14, "flops_per_s": 4.5e14},
            {"stage": 3, "zero": None, "llm_unet_flops_per_s": 5e14, "flops_per_s": 5.5e14},
            {"stage": 2, "zero": 1, "llm_unet_flops_per_s": 6e14, "flops_per_s": 6.5e14},
        ],
    }
    return result


def test_goals_are_compared(result: dict[str, Any]) -> None:
    assert [(goal.value, goal.met) for goal in goals(result)] == [(0.7, True), (21.0, False), (4.0, True), (0.5, True)]
    assert goals(result)[3].name == "MFU of LLM and UNet in stage 3, without ZeRO"
    result["parts"] = {"edit": result["parts"]["edit"]}
    assert [goal.met for goal in goals(result)] == [False, None, None, None]
    assert goals(result | {"sizes": "tiny"}) == []


def test_the_page_has_units_and_shares(result: dict[str, Any]) -> None:
    result["left_out"]["training"] = "cut off"
    page = to_markdown(result)
    assert "| edit of 50 steps, s | at most 0.8 | 0.7 | met |" in page and "| missed |" in page
    assert "| switches | steps | edit, s | step, ms | flops, TFLOP/s | peak, GiB | share of the measured" in page
    assert "| matmul flops, TFLOP/s | copy, GB/s | peak flops, TFLOP/s |" in page and "- training: cut off" in page
    assert "| stage | ZeRO | llm unet flops" in page and "| 3 | none | 500 |" in page
    assert [goal["met"] for goal in result["goals"]] == [True, False, True, True]


def test_a_package_without_metadata_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "PACKAGES", ("torch", "no-such-package"))
    versions = begin("cpu", True, "fp32", 1)["versions"]
    assert versions["torch"][0].isdigit() and versions["no-such-package"] == "of unknown version"
