"""The command that pretrains one part."""

import json
import shutil
from pathlib import Path

import pytest

from fireedit.jobs import pretrain
from fireedit.models.model import NANO
from fireedit.platform import config


def test_a_part_is_trained_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["steps=2", "batch=4", "workers=0", "log_every=1", "held_out=1", f"home={tmp_path}"]
    shutil.copytree(NANO / "text_encoder", tmp_path / "nano" / "text_encoder")
    pretrain.main(["painter", "--out", str(tmp_path / "nano"), *small])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["part"] == "painter" and report["steps"] == 2 and report["samples"] == 8 and report["inside"] > 0
    assert (tmp_path / "nano" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert (tmp_path / "nano" / "vae" / "config.json").is_file()


@pytest.mark.parametrize(
    ("part", "missing", "first"), [("painter", "text_encoder", "clip"), ("llm", "vision", "vision")]
)
def test_a_part_without_what_it_reads_names_the_part_to_train_first(
    tmp_path: Path, part: str, missing: str, first: str
) -> None:
    shutil.copytree(NANO / "vae", tmp_path / "vae-alone" / "vae")
    for more in ([], [f"init_from={tmp_path / 'vae-alone'}"]):
        with pytest.raises(SystemExit, match=f"nano/{missing} is missing; run `python jobs/pretrain.py {first} --out"):
            pretrain.run(part, tmp_path / "nano", ["steps=1", f"home={tmp_path}", *more])


def test_another_start_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    state = tmp_path / "pretraining" / "painter" / "step-00000001" / "state.json"
    state.parent.mkdir(parents=True)
    begun = {"init_from": None, "batch": 4, "seed": 0}
    saved = {"step": 1, "workers": 0, "attempt": "", "shapes": {}, "position": {"task": {"begun_with": begun}}}
    state.write_text(json.dumps(saved))
    with pytest.raises(SystemExit, match="began with init_from None, not .*/models/nano; write no init_from to resume"):
        pretrain.run("painter", tmp_path / "nano", [f"home={tmp_path}", "batch=4", f"init_from={NANO}"])
    assert not (tmp_path / "nano").exists()


def test_a_part_goes_on_from_a_small_model_with_what_else_it_reads(tmp_path: Path) -> None:
    small = ["steps=1", "batch=4", "workers=0", "held_out=1", f"home={tmp_path}", f"init_from={NANO}"]
    report = pretrain.run("painter", tmp_path / "nano", small)
    assert report["over_copy"] < 0.8, "as trained, on the text states that it knows"


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
