"""Evaluations: what is refused before any picture is painted, and pictures made elsewhere."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fireedit.jobs.evaluation import evaluations
from fireedit.jobs.evaluation.editor_facts import EditorFacts
from fireedit.jobs.evaluation.evaluations import EvaluationConfig, evaluate, open_edits, paint
from fireedit.jobs.evaluation.measuring import Batch, Found, Measuring
from fireedit.jobs.evaluation.painting import Painter, PaintingError, Replicas
from fireedit.jobs.evaluation.sets import magicbrush
from fireedit.jobs.evaluation.sets.evaluation_set import EvaluationSet, SetError
from fireedit.jobs.evaluation.sets.scenes import SceneChoice
from fireedit.jobs.evaluation.turns import read_turns
from fireedit.models.checkpoint_files import CheckpointFileError
from fireedit.models.editors.editor import EditorError
from fireedit.models.settings import PaintSettings
from fireedit.platform.job_folder import JobFolderError
from tests.jobs.evaluation.magicbrush_folder import write_magicbrush


def asked(folder: Path, editor: str, **fields: Any) -> EvaluationConfig:
    pool = Replicas(most=1, cpus=0.25, gpus=0, batch=1)
    places = {"data": str(folder / "data"), "out": str(folder / "out")}
    defaults = {"set": "magicbrush-test", "partial": True, "replicas": pool} | places
    return EvaluationConfig(editor=editor, **(defaults | fields))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a set, whose measures run in this process."""

    def measure(measuring: Measuring, comparisons: Any, *_: Any) -> Found:
        values = Batch(comparisons, measuring.pictures, {}).measure(measuring.present)
        return Found(values=values, weights={})

    monkeypatch.setattr(evaluations, "measure", measure)
    write_magicbrush(tmp_path / "data")
    return tmp_path


def write_targets(edits: EvaluationSet, folder: Path) -> None:
    """Write true targets in the place of an editor's pictures."""
    for each in edits.comparisons:
        path = folder / each.output
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(each.reference).read_bytes())


def test_pictures_made_elsewhere_are_measured(folder: Path) -> None:
    config = asked(folder, f"folder={folder / 'elsewhere'}")
    edits = open_edits(config)
    write_targets(edits, folder / "elsewhere")
    tables = evaluate(config)
    assert tables == {"single-turn": {"l1": 0, "l2": 0}, "multi-turn": {"l1": 0, "l2": 0}}
    report = (folder / "out" / "evaluation.md").read_text()
    assert report.startswith("# folder on magicbrush-test, part of the published set")
    turns = read_turns(str(folder / "out"))
    assert len(turns) == 9 and {turn.output.split("_")[1] for turn in turns} == {"1.png", "inde"}
    assert all(Path(turn.source).is_file() and Path(turn.picture).is_file() for turn in turns)
    wrong = edits.comparisons[0]
    with Image.open(wrong.reference) as image:
        Image.fromarray(255 - np.asarray(image)).save(folder / "elsewhere" / wrong.output)
    assert evaluate(config)["single-turn"]["l1"] > 0.01


def test_a_set_without_targets_has_no_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = open_edits(asked(folder, "vae=nano"))
    without = dataclasses.replace(edits, turns=[dataclasses.replace(turn, target="") for turn in edits.turns])
    monkeypatch.setattr(evaluations, "open_edits", lambda _: without)
    with pytest.raises(SetError, match="--editor vae: magicbrush-test has no targets to reconstruct"):
        evaluate(asked(folder, "vae=nano"))


def test_missing_pictures_are_counted_and_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = asked(folder, f"folder={folder / 'elsewhere'}")
    with pytest.raises(PaintingError, match="elsewhere: 12 of 12 pictures are missing, first 40000/40000_1.png"):
        evaluate(config)
    write_targets(open_edits(config), folder / "elsewhere")
    (folder / "elsewhere" / "40034" / "40034_iter_3.png").unlink()
    assert evaluate(config)["multi-turn"]["l1"] == 0, "--partial leaves it out"
    monkeypatch.setitem(magicbrush.SIZES, "test", (5, 9))
    with pytest.raises(
        PaintingError, match="1 of 12 pictures are missing, first .*; write --partial to leave them out"
    ):
        evaluate(dataclasses.replace(config, partial=False))


def test_a_folder_of_another_evaluation_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painted = list[Painter]()

    def paint_missing(painter: Painter, edits: EvaluationSet, replicas: Replicas) -> dict[str, str]:
        painted.append(painter)
        return {}

    monkeypatch.setattr(evaluations, "paint_missing", paint_missing)
    config, facts = asked(folder, "copy"), EditorFacts("ab", PaintSettings())
    edits = open_edits(config)
    paint(config, edits, facts)
    paint(config, edits, facts)
    with pytest.raises(JobFolderError, match=r"made with seed 0, not 1; write another --out"):
        paint(asked(folder, "copy", seed=1), edits, facts)
    with pytest.raises(JobFolderError, match="made with settings"):
        paint(config, edits, EditorFacts("ab", PaintSettings(num_inference_steps=7)))
    assert [each.settings.num_inference_steps for each in painted] == [100, 100]


def test_failures_end_an_evaluation_unless_part_of_it_is_wanted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluations, "paint_missing", lambda *_: {"a/1.png": "ValueError: too long"})
    edits, facts = open_edits(asked(folder, "copy")), EditorFacts("ab", PaintSettings())
    with pytest.raises(PaintingError, match="1 of 13 pictures failed, first a/1.png: ValueError: too long; start"):
        paint(asked(folder, "copy", partial=False), edits, facts)
    paint(asked(folder, "copy"), edits, facts)


def test_other_editors_are_evaluated_beside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`copy` and pictures made elsewhere, as baselines of true targets."""
    config = asked(folder, f"folder={folder / 'elsewhere'}", beside=["copy"])
    edits = open_edits(config)
    write_targets(edits, folder / "elsewhere")

    def paint_missing(painter: Painter, edits: EvaluationSet, replicas: Replicas) -> dict[str, str]:
        for turn in edits.turns:
            path = Path(painter.path(turn.output))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(Path(turn.source if not turn.chained else turn.target).read_bytes())
        return {}

    monkeypatch.setattr(evaluations, "paint_missing", paint_missing)
    monkeypatch.setattr(evaluations, "read_facts", lambda *_: EditorFacts("", PaintSettings()))
    evaluate(config)
    report = (folder / "out" / "evaluation.md").read_text()
    assert "| copy | " in report and "| less copy, paired | -" in report
    assert (folder / "out" / "beside" / "copy" / "evaluation.md").read_text().startswith("# copy on magicbrush-test")
    with pytest.raises(EditorError, match="--beside copy: found it twice"):
        evaluate(asked(folder, "copy", beside=["copy", "copy"]))


def test_regions_are_fireedits_and_true_ones_those_of_scenes(folder: Path) -> None:
    edits, facts = open_edits(asked(folder, "copy")), EditorFacts("ab", PaintSettings())
    with pytest.raises(EditorError, match="--regions none: copy has no regions"):
        paint(asked(folder, "copy", regions="none"), edits, facts)
    with pytest.raises(SetError, match="--regions true: found --set magicbrush-test"):
        paint(asked(folder, "fireedit=nano", regions="true"), edits, facts)


def test_a_published_set_needs_its_folder(folder: Path) -> None:
    with pytest.raises(SetError, match="--set emu-edit: found no folder of it; write --data FOLDER"):
        open_edits(asked(folder, "copy", set="emu-edit", data=""))


def test_a_baseline_is_looked_up_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = asked(folder, f"folder={folder / 'elsewhere'}")
    write_targets(open_edits(config), folder / "elsewhere")
    evaluate(config)
    monkeypatch.setattr(evaluations, "measure", lambda *_: pytest.fail("measured"))
    other = dataclasses.replace(config, out=str(folder / "other"))
    with pytest.raises(SetError, match="--baseline /no/such: found no evaluation.json; write the --out of another"):
        evaluate(dataclasses.replace(other, baselines=["/no/such"]))
    with pytest.raises(SetError, match="with other edits"):
        result = folder / "out" / "evaluation.json"
        result.write_text(result.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
        evaluate(dataclasses.replace(other, baselines=[config.out]))


def test_backbones_and_judges_are_checked_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluations, "read_facts", lambda *_: EditorFacts("", PaintSettings()))
    monkeypatch.setattr(evaluations, "paint_missing", lambda *_: pytest.fail("painted"))
    (folder / "clip-vit-base-patch32").mkdir()
    with pytest.raises(CheckpointFileError, match="clip-vit-base-patch32/config.json is missing"):
        evaluate(asked(folder, "copy", backbones=str(folder)))
    with pytest.raises(CheckpointFileError, match="--backbones /no/such: found no such folder"):
        evaluate(asked(folder, "copy", backbones="/no/such"))
    drawn = SceneChoice(families=("recolor",), edits=1, sessions=0)
    with pytest.raises(FileNotFoundError, match="scene_reader.safetensors is missing"):
        evaluate(asked(folder, "copy", set="scenes", drawn=drawn, judges=str(folder)))


@pytest.mark.parametrize(
    ("flag", "fields"),
    [
        ("--emu-set", {"emu_set": "2022"}),
        ("--against", {"against": "generations"}),
        ("--judges", {"judges": "/somewhere"}),
        ("--splits, --families, --edits, --sessions", {"drawn": SceneChoice(edits=3)}),
    ],
)
def test_flags_of_other_sets_are_refused(folder: Path, flag: str, fields: dict[str, Any]) -> None:
    with pytest.raises(SetError, match=f"^{flag}: found --set magicbrush-test"):
        open_edits(asked(folder, "copy", **fields))


def test_a_set_without_edits_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = EvaluationSet(name="emu-edit-3589", fingerprint="", turns=[], comparisons=[], columns=[])
    monkeypatch.setattr(evaluations.emu_edit, "open_set", lambda *_: none)
    with pytest.raises(SetError, match="/data: found no edits of emu-edit-3589; write what has some"):
        open_edits(asked(folder, "copy", set="emu-edit"))
