"""Edited pictures are cached, and each turn of a session edits the picture of the turn before."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from fireedit.jobs.evaluation.cases import Cases, EditCase
from fireedit.jobs.evaluation.editors import Baseline, Editor
from fireedit.jobs.evaluation.results import Row
from fireedit.jobs.evaluation.run import Contestant, edited_pictures, run_sessions
from fireedit.jobs.evaluation.scene_reader import SceneReader, SceneReaderConfig


class Darker:
    """Editor that subtracts one from every pixel and counts its cases."""

    weights = "abc"

    def __init__(self, manner: str = "") -> None:
        self.edited, self.manner = 0, manner

    def edit(self, cases: Sequence[EditCase]) -> np.ndarray:
        self.edited += len(cases)
        return np.stack([case.source - np.minimum(case.source, 1) for case in cases])


def contestant(editor: Editor) -> Contestant:
    return Contestant(Row("row", editor.weights, ""), editor)


@pytest.fixture(scope="module")
def cases() -> Cases:
    return Cases(32)


def test_an_interrupted_run_is_resumed(cases: Cases, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    removals, editor = cases.of("unseen_seeds", "remove", 5), Darker()
    edited_pictures(contestant(editor), removals[:3], str(tmp_path), size=2)
    assert editor.edited == 3 and len(capsys.readouterr().err.splitlines()) == 2
    pictures = edited_pictures(contestant(editor), removals, str(tmp_path), size=2)
    assert editor.edited == 3 + 3, "the incomplete batch is edited again, with those after it"
    assert np.array_equal(pictures, Darker().edit(removals))
    again = edited_pictures(contestant(editor), removals, str(tmp_path), size=2)
    assert editor.edited == 6 and np.array_equal(again, pictures)
    other = Darker("2 steps")
    edited_pictures(contestant(other), removals, str(tmp_path), size=2)
    assert other.edited == 5, "the cache distinguishes settings"


def test_pictures_of_editors_without_weights_are_not_cached(cases: Cases, tmp_path: Path) -> None:
    removals = cases.of("unseen_seeds", "remove", 2)
    pictures = edited_pictures(contestant(Baseline("source")), removals, str(tmp_path))
    assert np.array_equal(pictures[0], removals[0].source)
    assert not list(tmp_path.iterdir())


def test_a_session_edits_the_editors_own_pictures(cases: Cases, tmp_path: Path) -> None:
    sessions = cases.sessions("unseen_seeds", 3)
    torch.manual_seed(0)
    reader = SceneReader(SceneReaderConfig(widths=(8, 16), groups=4)).eval()
    scores = run_sessions(contestant(Darker()), sessions, reader, str(tmp_path))
    errors = np.array(scores.l1_outside)
    assert errors.shape == (3, 3) and len(scores.success) == 3
    assert np.allclose(errors[2], 3 * errors[0], rtol=0.1), "errors accumulate"
    exact = run_sessions(contestant(Baseline("target")), sessions, reader, str(tmp_path))
    assert np.array(exact.l1_outside).max() == 0
