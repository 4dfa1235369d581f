"""Components are read back as they were saved, and make a pipeline that edits and that the stages start from."""

from pathlib import Path

import pytest
import torch

from fireedit.jobs.training.nano_folder import (
    PAINTER,
    PRETRAINED,
    assemble,
    copy_components,
    finish,
    frozen,
    load_weights,
    saved,
)
from fireedit.models.model import preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.qformer import QFormer
from fireedit.models.weights import fingerprint
from fireedit.platform import storage
from fireedit.platform.train import runs

SIZES = preset("nano").qformer


def test_a_frozen_component_is_the_saved_one_and_a_missing_one_is_an_error_that_names_its_part(tmp_path: Path) -> None:
    written, fresh = QFormer(SIZES), QFormer(SIZES)
    written.half().save_pretrained(tmp_path / "qformer")
    loaded = frozen(fresh, tmp_path / "qformer")
    assert torch.equal(loaded.query_tokens, written.query_tokens.float())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(
        SystemExit, match=r"text_encoder is missing; run `python jobs/pretrain.py clip --out .*init_from=models/nano"
    ):
        frozen(fresh, tmp_path / "text_encoder")


def test_the_other_half_of_a_component_is_the_saved_one_or_fresh(tmp_path: Path) -> None:
    written, fresh = QFormer(SIZES), QFormer(SIZES)
    assert saved(fresh, tmp_path / "qformer") is fresh
    written.save_pretrained(tmp_path / "qformer")
    assert torch.equal(saved(fresh, tmp_path / "qformer").query_tokens, written.query_tokens)


def test_a_component_loads_saved_weights_or_raises(tmp_path: Path) -> None:
    written, component = QFormer(SIZES), QFormer(SIZES)
    written.save_pretrained(tmp_path / "qformer")
    load_weights(component, tmp_path / "qformer")
    assert all(torch.equal(value, written.state_dict()[name]) for name, value in component.state_dict().items())
    with pytest.raises(
        SystemExit, match="nowhere is missing; write init_from=FOLDER that holds nowhere, such as models/nano"
    ):
        load_weights(component, tmp_path / "nowhere")


def test_components_are_copied_where_a_folder_has_none(tmp_path: Path) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    for folder, names in ((start, ("tokenizer", "text_encoder", "unet", "qformer")), (out, ("unet",))):
        for name in names:
            (folder / name).mkdir(parents=True)
            (folder / name / "config.json").write_text(folder.name)
    copy_components(out, start)
    texts = {path.parent.name: path.read_text() for path in out.glob("*/config.json")}
    assert texts == {"tokenizer": "start", "text_encoder": "start", "unet": "out"}
    with pytest.raises(
        SystemExit, match=r"nowhere has no components of a small model; write a folder like models/nano"
    ):
        copy_components(out, tmp_path / "nowhere")


def test_a_folder_of_components_becomes_a_pipeline(tmp_path: Path) -> None:
    components = FireEditPipeline.fresh(seed=3)
    for name in (*PRETRAINED, "vlm_tokenizer", "tokenizer"):
        getattr(components, name).save_pretrained(tmp_path / name)
    fresh = set(assemble(tmp_path)["fresh"])
    assert fresh == {"qformer", "tati", "hvca", *PAINTER}, "the painter may still be in training"
    for name in PAINTER:
        getattr(components, name).save_pretrained(tmp_path / name)
    report = assemble(tmp_path)
    assembled = FireEditPipeline.from_pretrained(tmp_path)
    assert set(report["fresh"]) == {"qformer", "tati", "hvca"} and 25 < report["megabytes"] <= 30
    for name in ("vae", "unet"):
        assert fingerprint(getattr(assembled, name)) == fingerprint(getattr(components, name).half())
    assert assembled.detector.dtype == torch.float32
    assert assemble(tmp_path)["megabytes"] == report["megabytes"]


def test_a_finished_stage_replaces_the_weights_it_started_from(tmp_path: Path) -> None:
    trained, run = FireEditPipeline.fresh(seed=4), runs.Run(str(tmp_path), "three")
    out = tmp_path / "nano"
    with pytest.raises(SystemExit, match="no finished run of nano stage 3"):
        finish(str(tmp_path), out)
    storage.write_bytes(run.recipe, b"{model: {preset: nano}, stage: 3}")
    trained.save_pretrained(run.weights)
    assert finish(str(tmp_path), out)["run"] == "three"
    finished = FireEditPipeline.from_pretrained(out)
    assert not [file for file in out.rglob("*.json") if str(tmp_path) in file.read_text()], "paths of this machine"
    assert "is_local" not in (out / "tokenizer" / "tokenizer_config.json").read_text()
    assert fingerprint(finished.hvca) == fingerprint(trained.hvca.half()) and finished.detector.dtype == torch.float32


def test_a_missing_component_names_the_part_to_pretrain(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="pretrain.py vision"):
        assemble(tmp_path)
