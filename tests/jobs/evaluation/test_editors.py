"""Editors and baselines edit cases; leaving out a freshly initialized component changes nothing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from fireedit.jobs.evaluation import editors
from fireedit.jobs.evaluation.cases import Cases, EditCase
from fireedit.jobs.evaluation.editors import FireEditor, OtherSystem, RowName, TextEditor, make_editor, parse_rows
from fireedit.models.editors.editor import EditorName
from fireedit.models.model import preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import PaintSettings
from fireedit.models.text import text_states, tokenize_text

SIZES = preset("nano")
FEW = PaintSettings(num_inference_steps=2)


@pytest.fixture(scope="module")
def pipeline() -> FireEditPipeline:
    pipeline = FireEditPipeline.fresh(seed=0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(pipeline: FireEditPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cases() -> list[EditCase]:
    return Cases(SIZES.vae.sample_size).of("unseen_seeds", "remove", 2)


def row(text: str, folder: Path) -> RowName:
    return parse_rows(text, str(folder), "predicted")[-1]


def test_a_row_names_its_folder_and_its_region_source() -> None:
    target, *rows = parse_rows("full,base=runs/a@none", "nano", "true")
    assert target.name == "target"
    assert rows == [RowName("full", "nano", "true"), RowName("base@none", "runs/a", "none")]
    with pytest.raises(editors.EditorError, match="predicted, true, none"):
        parse_rows("base=runs/a@some", "nano", "true")


def test_baselines_return_source_target_or_the_vaes_reconstruction(folder: Path, cases: list[EditCase]) -> None:
    edited = {name: make_editor(row(name, folder), SIZES, {}, "cpu").edit(cases) for name in ("copy", "target", "vae")}
    assert np.array_equal(edited["copy"][1], cases[1].source) and np.array_equal(edited["target"][1], cases[1].target)
    assert np.array_equal(edited["vae"], edited["target"]), "nano's codec is lossless"


def test_the_pipeline_edits_with_every_region_source(pipeline: FireEditPipeline, cases: list[EditCase]) -> None:
    for regions in editors.REGION_SOURCES:
        editor = FireEditor(pipeline, FEW, regions)
        counts = [len(boxes) for boxes in editor.perceive(cases).boxes]
        assert regions == "predicted" or counts == [len(case.boxes) if regions == "true" else 0 for case in cases]
        assert editor.edit(cases).shape == (2, 64, 64, 3)


def test_leaving_out_fresh_parts_changes_nothing(pipeline: FireEditPipeline, cases: list[EditCase]) -> None:
    """TATI and HVCA start as no-ops, so a fresh pipeline samples the same without them."""
    whole = FireEditor(pipeline, FEW, "predicted").edit(cases)
    bare = FireEditPipeline(**{**pipeline.components, "hvca": None, "tati": None})
    bare.set_progress_bar_config(disable=True)
    assert np.abs(FireEditor(bare, FEW, "predicted").edit(cases).astype(int) - whole.astype(int)).max() <= 1


def test_the_weights_in_a_folder_determine_the_editor(folder: Path, cases: list[EditCase], tmp_path: Path) -> None:
    full = make_editor(row("full", folder), SIZES, {}, "cpu")
    assert isinstance(full, FireEditor) and full.weights == make_editor(row("again", folder), SIZES, {}, "cpu").weights
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        (tmp_path / part).symlink_to(folder / part)
    plain = make_editor(row(f"ip2p={tmp_path}", folder), SIZES, {}, "cpu")
    assert isinstance(plain, TextEditor) and plain.edit(cases).shape == (2, 64, 64, 3)
    with pytest.raises(editors.EditorError, match="none.*neither a pipeline"):
        make_editor(row(f"none={tmp_path / 'vae'}", folder), SIZES, {}, "cpu")


def test_settings_are_those_saved_with_the_weights_unless_changed(
    pipeline: FireEditPipeline, folder: Path, tmp_path: Path
) -> None:
    saved = pipeline.settings
    for name in ("full", "ip2p"):
        editor = make_editor(row(name, folder), SIZES, {"num_inference_steps": None, "guidance_scale": 3.0}, "cpu")
        assert isinstance(editor, FireEditor | TextEditor)
        assert editor.settings == saved.but(guidance_scale=3.0)
    (tmp_path / "unet").symlink_to(folder / "unet")
    (tmp_path / "vae").symlink_to(folder / "vae")
    (tmp_path / "text_encoder").symlink_to(folder / "text_encoder")
    parts = make_editor(row(f"ip2p={tmp_path}", folder), SIZES, {}, "cpu")
    assert isinstance(parts, TextEditor) and parts.settings == SIZES.painting


def test_the_plain_row_reads_instructions_that_name_the_object(folder: Path, cases: list[EditCase]) -> None:
    instructed, plain = (make_editor(row(name, folder), SIZES, {}, "cpu") for name in ("ip2p", "ip2p_plain"))
    assert isinstance(plain, TextEditor) and plain.plain and plain.weights == instructed.weights
    assert plain.manner != instructed.manner, "the cache distinguishes them"
    assert plain.edit(cases).shape == (2, 64, 64, 3)


def test_an_ablation_without_a_detector_gets_no_regions(
    pipeline: FireEditPipeline, cases: list[EditCase], tmp_path: Path
) -> None:
    ablation = FireEditPipeline(**pipeline.components | {"detector": None, "region_encoder": None})
    ablation.save_pretrained(tmp_path)
    base = make_editor(row(f"base={tmp_path}@true", tmp_path), SIZES, {}, "cpu")
    assert isinstance(base, FireEditor) and base.regions == "none"
    assert base.edit(cases).shape == (2, 64, 64, 3)


def test_edit_tokens_are_compared_with_the_nearer_of_both_instructions(pipeline: FireEditPipeline) -> None:
    editor, cases = FireEditor(pipeline, FEW, "predicted"), Cases(32).of("knowledge", "reasoning", 3)
    instructions, plain = [case.instruction for case in cases], [case.edit.plain for case in cases]
    tokens = pipeline.understand(editor.perceive(cases), instructions)
    ids = [tokenize_text(pipeline.tokenizer, texts, 77) for texts in (instructions, plain)]
    distances = [(tokens - text_states(pipeline.text_encoder, each)).square().mean((1, 2)) for each in ids]
    nearer = torch.stack(distances).amin(dim=0)
    assert editor.distances_to_text(cases) == pytest.approx(nearer.tolist(), rel=1e-4) and instructions != plain


class Enlarging:
    """System that paints pictures of twice the size, brighter by a level."""

    name, weights, settings = "magicbrush", "ab", PaintSettings()

    def edit(
        self, pictures: Sequence[np.ndarray], instructions: Sequence[str], seeds: Sequence[int], settings: PaintSettings
    ) -> list[np.ndarray]:
        assert settings.num_inference_steps == 7 and instructions[0] and list(seeds) == sorted(seeds)
        return [(each + (each < 255)).repeat(2, axis=0).repeat(2, axis=1) for each in pictures]


def test_another_systems_pictures_have_the_cases_size(
    cases: list[EditCase], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[EditorName]()
    monkeypatch.setattr(editors, "load_editor", lambda name, device: asked.append(name) or Enlarging())
    editor = make_editor(row("magicbrush=weights", folder), SIZES, {"num_inference_steps": 7}, "cpu")
    assert asked == [EditorName("magicbrush", "weights")] and isinstance(editor, OtherSystem)
    edited = editor.edit(cases)
    assert edited.shape == (2, 64, 64, 3)
    assert np.abs(edited[0].astype(int) - cases[0].source).mean() < 12, "the source, scaled"
    other = make_editor(row("magicbrush=weights", folder), SIZES, {"num_inference_steps": 8}, "cpu")
    assert other.weights == "ab" and other.manner != editor.manner
