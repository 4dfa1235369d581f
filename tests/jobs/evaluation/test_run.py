"""Pictures that were made once are not made again; sessions go on from what the editor made; a quick look needs no
judge."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from fireedit.jobs.evaluation import run
from fireedit.jobs.evaluation.cases import Case, Cases
from fireedit.jobs.evaluation.editors import Copy, FireEditor, Target
from fireedit.jobs.evaluation.report import PICTURE
from fireedit.jobs.evaluation.results import Row
from fireedit.jobs.evaluation.run import Contestant, edited_pictures, play, quick
from fireedit.jobs.evaluation.scene_reader import SceneReader, SceneReaderConfig, save_reader
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.text import text_states, tokenize_text


class Darker:
    """An editor that takes one from every pixel, and counts what it has done."""

    weights = "abc"

    def __init__(self, manner: str = "") -> None:
        self.done, self.manner = 0, manner

    def edit(self, cases: Sequence[Case]) -> np.ndarray:
        self.done += len(cases)
        return np.stack([case.source - np.minimum(case.source, 1) for case in cases])


def contestant(editor: run.Editor) -> Contestant:
    return Contestant(Row("row", editor.weights, ""), editor)


@pytest.fixture(scope="module")
def cases() -> Cases:
    return Cases(32)


def test_a_run_that_was_broken_off_goes_on(cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BATCH", 2)
    drawn, editor, said = cases.of("unseen_seeds", "remove", 5), Darker(), list[str]()
    edited_pictures(contestant(editor), drawn[:3], str(tmp_path), said.append)
    assert (editor.done, len(said)) == (3, 2)
    made = edited_pictures(contestant(editor), drawn, str(tmp_path), said.append)
    assert editor.done == 3 + 3, "the batch that was half made is made again, with what follows"
    assert np.array_equal(made, Darker().edit(drawn))
    again = edited_pictures(contestant(editor), drawn, str(tmp_path), said.append)
    assert editor.done == 6 and np.array_equal(again, made)
    other = Darker("2 steps")
    edited_pictures(contestant(other), drawn, str(tmp_path), said.append)
    assert other.done == 5, "other settings make other pictures"


def test_what_costs_nothing_is_not_kept(cases: Cases, tmp_path: Path) -> None:
    drawn = cases.of("unseen_seeds", "remove", 2)
    assert np.array_equal(edited_pictures(contestant(Copy()), drawn, str(tmp_path), print)[0], drawn[0].source)
    assert not list(tmp_path.iterdir())


def test_a_session_is_played_on_the_editors_own_pictures(cases: Cases, tmp_path: Path) -> None:
    sessions = cases.sessions("unseen_seeds", 3)
    torch.manual_seed(0)
    reader = SceneReader(SceneReaderConfig(widths=(8, 16), groups=4)).eval()
    turns = play(contestant(Darker()), sessions, reader, str(tmp_path), print)
    errors = np.array(turns.l1_outside)
    assert errors.shape == (3, 3) and len(turns.success) == 3
    assert np.allclose(errors[2], 3 * errors[0], rtol=0.1), "errors add up"
    faultless = play(contestant(Target()), sessions, reader, str(tmp_path), print)
    assert np.array(faultless.l1_outside).max() == 0


def test_edit_tokens_are_measured_against_the_nearer_of_instruction_and_plain_words(cases: Cases) -> None:
    pipeline = FireEditPipeline.fresh_nano(seed=0)
    editor, asked = FireEditor(pipeline, pipeline.settings, "predicted"), cases.of("knowledge", "reasoning", 3)
    told, plain = ([case.instruction for case in asked], [case.edit.plain for case in asked])
    tokens = pipeline.understand(pipeline.perceive([case.source for case in asked]), told)
    distances = [
        (tokens - text_states(pipeline.text_encoder, tokenize_text(pipeline.tokenizer, texts, 77)))
        .square()
        .mean((1, 2))
        for texts in (told, plain)
    ]
    nearer = torch.stack(distances).amin(dim=0)
    assert editor.distances_to_text(asked) == pytest.approx(nearer.tolist(), rel=1e-4)
    assert told != plain


def test_a_quick_look_says_how_near_a_folders_edits_come(tmp_path: Path) -> None:
    FireEditPipeline.fresh_nano(seed=0).save_pretrained(tmp_path)
    figures, page = quick(tmp_path, edits=1)
    names = {f"{row}_{name}" for row in ("full", "ip2p") for name in ("l1_inside", "l1_outside", "inside_over_copy")}
    assert set(figures) == names | {"full_distance_to_text"}, "without a judge"
    assert figures["full_inside_over_copy"] == pytest.approx(1, abs=0.05), "fresh weights return the source"
    assert page.height > 8 * PICTURE, "two families beside each other"
    torch.manual_seed(0)
    save_reader(SceneReader(SceneReaderConfig(widths=(8, 16), groups=4)), tmp_path)
    shutil.rmtree(tmp_path / "vlm")
    judged, _ = quick(tmp_path, edits=1)
    assert judged["ip2p_success"] == judged["ip2p_success_remove"] == 0 and "full_success" not in judged
    assert judged["ip2p_inside_over_copy"] == figures["ip2p_inside_over_copy"]
