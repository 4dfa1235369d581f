"""The command that pretrains one part."""

import json
from pathlib import Path

import pytest

from fireedit.jobs import pretrain
from fireedit.models.model import NANO
from fireedit.platform import config


def test_a_part_is_trained_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["steps=2", "batch=4", "workers=0", "log_every=1", "held_out=1", f"home={tmp_path}"]
    pretrain.main(["painter", "--out", str(tmp_path / "nano"), *small])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["part"] == "painter" and report["steps"] == 2 and report["samples"] == 8 and report["inside"] > 0
    assert (tmp_path / "nano" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert (tmp_path / "nano" / "vae" / "config.json").is_file()


def test_a_part_goes_on_from_a_small_model_with_what_else_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["steps=1", "batch=4", "workers=0", "held_out=1", f"home={tmp_path}", f"init_from={NANO}"]
    report = pretrain.run("painter", tmp_path / "nano", small)
    assert report["inside"] < 0.15, "as trained, on the text states that it knows"
    assert "has no weights" not in capsys.readouterr().err


def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="'step'.*'steps'"):
        pretrain.run("painter", tmp_path, ["step=2"])


def test_an_override_of_the_corpora_can_be_for_one_stage_alone() -> None:
    overrides = ["scenes.rows=5", "1:scenes.rows=40", "mixture={refcoco: 1}"]
    assert pretrain.stage_overrides("1", overrides) == ["scenes.rows=5", "scenes.rows=40", "mixture={refcoco: 1}"]
    assert pretrain.stage_overrides("2", overrides) == ["scenes.rows=5", "mixture={refcoco: 1}"]


def test_every_trained_part_has_a_recipe() -> None:
    for part, (recipe, _) in pretrain.TRAINED.items():
        assert config.load(recipe, f"nano-{part}", folder=pretrain.CONFIGS).minutes
