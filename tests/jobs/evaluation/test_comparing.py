"""Editors side by side: edits and sessions that all painted, sheets, and a page without scripts in its texts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fireedit.jobs.evaluation import comparing
from fireedit.jobs.evaluation.comparing import HEIGHT, ComparedEdit, chosen_edits, compared_edits, compared_sessions
from fireedit.jobs.evaluation.sets.evaluation_set import EvaluationSet, SetError
from fireedit.jobs.evaluation.sets.magicbrush import open_set
from fireedit.platform.images import ImageError, decode
from tests.factories import picture
from tests.jobs.evaluation.magicbrush_folder import write_magicbrush


@pytest.fixture
def edits(tmp_path: Path) -> EvaluationSet:
    return open_set(str(write_magicbrush(tmp_path / "data")), "test", partial=True)


@pytest.fixture
def pictures(edits: EvaluationSet, tmp_path: Path) -> dict[str, str]:
    """Folders of two editors; the second lacks the last turn of the longest session."""
    folders = {name: str(tmp_path / name) for name in ("ours", "theirs")}
    for number, folder in enumerate(folders.values()):
        for seed, turn in enumerate(edits.turns):
            path = Path(folder) / turn.output
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(100 * number + seed, 60, 40)).save(path)
    (tmp_path / "theirs" / "40034" / "40034_iter_3.png").unlink()
    return folders


def test_edits_are_those_from_pictures_of_the_set_that_all_painted(
    edits: EvaluationSet, pictures: dict[str, str], tmp_path: Path
) -> None:
    found = compared_edits(edits, pictures)
    assert len(found) == 9 and not [edit for edit in found if "iter" in edit.name]
    assert list(found[0].results) == ["ours", "theirs", "target"] and found[0].source.endswith("40000-input.png")
    (tmp_path / "theirs" / "40000" / "40000_1.png").unlink()
    assert [edit.name for edit in compared_edits(edits, pictures)][0] == "40017/40017_1"


def test_sessions_are_chains_that_all_painted(edits: EvaluationSet, pictures: dict[str, str]) -> None:
    found = compared_sessions(edits, pictures)
    assert [[turn.name for turn in session] for session in found] == [
        ["40017/40017_1", "40017/40017_iter_2"],
        ["40068/40068_1", "40068/40068_iter_2"],
    ]
    assert all(turn.source.endswith("40017-input.png") for turn in found[0])


def test_sheets_have_a_row_for_each_edit_and_for_each_editor(edits: EvaluationSet, pictures: dict[str, str]) -> None:
    sheet = comparing.edit_sheet(compared_edits(edits, pictures)[:2])
    session = comparing.session_sheet(compared_sessions(edits, pictures)[0])
    assert 2 * HEIGHT < sheet.height < 3 * HEIGHT and 3 * HEIGHT < session.height < 4 * HEIGHT


def test_the_page_escapes_its_texts_and_shows_its_own_pictures(
    edits: EvaluationSet, pictures: dict[str, str], tmp_path: Path
) -> None:
    first = compared_edits(edits, pictures)[0]
    rude = dataclasses.replace(first, instruction="<script>alert('x')</script>")
    comparing.write_comparison(str(tmp_path / "out"), "magicbrush-test", [rude, first], [])
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<script>") == 1 and "&lt;script&gt;alert(" in page and page.count('type="range"') == 6
    shown = decode((tmp_path / "out" / "pictures" / "1-0.png").read_bytes())
    assert np.array_equal(shown, decode(Path(first.outputs["ours"]).read_bytes()))
    assert 'src="pictures/1-source.png"' in page and "http" not in page


def test_an_edit_without_target_has_editors_alone() -> None:
    edit = ComparedEdit(name="a", instruction="x", source="s", outputs={"ours": "o"})
    assert edit.results == {"ours": "o"}


def test_edits_that_cannot_be_chosen_are_named(edits: EvaluationSet, pictures: dict[str, str], tmp_path: Path) -> None:
    names = ["40068/40068_1", "40000/40000_1"]
    assert [edit.name for edit in chosen_edits(edits, pictures, names)] == ["40000/40000_1", "40068/40068_1"]
    assert len(chosen_edits(edits, pictures, [])) == 9
    with pytest.raises(SetError, match="--names 40000/4000_1: found no such edit .* write names such as 40000/40000_1"):
        chosen_edits(edits, pictures, [*names, "40000/4000_1"])
    with pytest.raises(
        SetError, match=r"--pictures third=/typo: found no picture of magicbrush-test; .*40000/40000_1.p"
    ):
        chosen_edits(edits, pictures | {"third": "/typo"}, [])
    (tmp_path / "fourth" / "40034").mkdir(parents=True)
    (tmp_path / "fourth" / "40034" / "40034_iter_3.png").write_bytes(b"x")
    with pytest.raises(SetError, match="found no edit of magicbrush-test that all of ours, theirs, fourth painted"):
        chosen_edits(edits, pictures | {"fourth": str(tmp_path / "fourth")}, [])


def test_a_picture_that_cannot_be_read_is_named(edits: EvaluationSet, pictures: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "theirs" / "40000" / "40000_1.png"
    broken.write_text("hello")
    with pytest.raises(ImageError, match=f"^{broken}: found 5 bytes"):
        comparing.write_comparison(str(tmp_path / "out"), "x", compared_edits(edits, pictures)[:1], [])
