"""Parts at full size: run one after the other at nano's sizes, each hands its outputs on, and trains with gradients."""

from pathlib import Path

import pytest
import torch

from fireedit.jobs.planning import full_size
from fireedit.jobs.planning.full_size import EDITING, PARTS, Trial, run_part


def trial(folder: Path, in_float32: bool = False) -> Trial:
    return Trial(config="nano", device="cpu", folder=folder, in_float32=in_float32)


@pytest.mark.parametrize("in_float32", [False, True])
def test_an_edit_goes_from_part_to_part(tmp_path: Path, in_float32: bool) -> None:
    ran = {part: run_part(part, trial(tmp_path, in_float32)) for part in EDITING}
    assert all(each.finite and each.peak_bytes > 2**27 for each in ran.values())
    assert ran["perceive"].outputs["image_tokens"] == [1, 16, 384] and "detail_3" in ran["perceive"].outputs
    assert ran["understand"].outputs == {"edit_tokens": [1, 77, 96]}
    assert ran["paint"].outputs == {"latents": [1, 48, 16, 16], "picture": [1, 64, 64, 3]}
    assert ran["understand"].dtypes["vlm"] == ("float32" if in_float32 else "bfloat16")
    assert ran["perceive"].dtypes["detector"] == "float32"


@pytest.mark.parametrize("part", [part for part in PARTS if part not in EDITING])
def test_a_stage_gives_gradients_and_what_plan_foretells(part: str, tmp_path: Path) -> None:
    ran = run_part(part, trial(tmp_path))
    assert ran.finite and ran.figures["loss"] > 0 and ran.figures["planned_bytes"] > 2**20
    assert ("denoise" in ran.figures) == (part == "stage3"), "nano trains its UNet in stage 3 alone"


def test_activations_are_foretold_in_the_precision_that_ran(tmp_path: Path) -> None:
    half, whole = (run_part("stage1", trial(tmp_path, in_float32)) for in_float32 in (False, True))
    assert whole.dtypes["vlm"] == "float32" and half.dtypes["vlm"] == "bfloat16"
    assert whole.figures["planned_bytes"] > 1.5 * half.figures["planned_bytes"]


@pytest.mark.parametrize(("part", "before"), [("understand", "perceive"), ("paint", "perceive")])
def test_a_part_without_those_before_it_says_which(part: str, before: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=f"it reads what {before} hands on.*; write {before} before it in --parts"):
        run_part(part, trial(tmp_path))


def test_an_output_that_is_no_number_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, _ = EDITING["perceive"]
    broken = {"perceive": (names, lambda *_: {"boxes": torch.tensor([1.0, float("nan")])})}
    monkeypatch.setattr(full_size, "EDITING", broken)
    assert not run_part("perceive", trial(tmp_path)).finite
