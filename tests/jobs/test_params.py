"""The counts add up to the paper's Table 1 and to the parameters that the stages train."""

import json
from dataclasses import replace
from typing import Any

import pytest

from fireedit.jobs.params import count, main
from fireedit.models.model import preset
from fireedit.models.vision import Sources


@pytest.fixture(scope="module")
def paper() -> dict[str, Any]:
    return count(preset("paper"), stage=3)


def test_the_lines_of_table_1_sum_to_the_papers_count(paper: dict[str, Any]) -> None:
    assert paper["paper_total_mi"] == 1093.776  # published: 1093.8
    assert paper["paper"] == {
        "UNet": 859_532_484,
        "image attention": 19_169_280,
        "Q-Former": 65_015_040,
        "LoRA": 4_194_304,
        "TATI": 30_251_520,
        "HVCA": 37_528_832,
        "one table of the LLM": 32035 * 4096,
    }


def test_every_component_has_its_published_size(paper: dict[str, Any]) -> None:
    assert {name: module["parameters"] for name, module in paper["modules"].items()} == {
        "vision": 304_368_640 + 303_179_776,
        "detector": 11_377_833,
        "region_encoder": 288_653_056,
        "vlm": 6_738_415_616 + 4_194_304 + 33_562_624 + 2 * 36 * 4096,
        "qformer": 65_015_040,
        "tati": 30_251_520,
        "hvca": 37_528_832,
        "unet": 859_532_484 + 19_169_280,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
    }


def test_each_stage_trains_its_parts(paper: dict[str, Any]) -> None:
    rows, lora, adapter, qformer, unet = 2 * 36 * 4096, 4_194_304, 33_562_624, 65_015_040, 859_532_484
    sums = [sum(module["trained"][stage] for module in paper["modules"].values()) for stage in (1, 2, 3)]
    assert sums == [
        qformer + rows,
        adapter + lora + rows + qformer + unet,
        lora + rows + qformer + unet + 19_169_280 + 30_251_520 + 37_528_832,
    ]
    assert paper["trained"] == sums[2]


def test_trained_parameters_are_the_papers_with_new_rows_in_place_of_a_table(paper: dict[str, Any]) -> None:
    assert paper["new_rows"] == 2 * 36 * 4096
    assert paper["trained"] - paper["new_rows"] == paper["paper_total"] - 32035 * 4096
    assert paper["trained_mi"] == 968.92


@pytest.mark.parametrize("sources", ["coarse", "fine"])
def test_an_hvca_of_one_view_lacks_two_projections(paper: dict[str, Any], sources: Sources) -> None:
    sizes = preset("paper")
    one = count(replace(sizes, hvca=replace(sizes.hvca, sources=sources)), stage=3)
    assert paper["trained"] - one["trained"] == 2 * (1024 * 1024 + 1024)


def test_the_job_prints_a_table_and_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "nano", "--stage", "2"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["config"] == "nano" and report["stage"] == 2
    assert report["bf16_bytes"] == 2 * report["parameters"]
    assert report["trained"] == sum(module["trained"]["2"] for module in report["modules"].values())
    assert "Table 1" in err and "this code, stage 2" in err and all(name in err for name in report["modules"])
