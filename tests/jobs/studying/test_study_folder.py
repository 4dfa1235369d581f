"""File of a study: read as it was written, and refused in a sentence."""

from pathlib import Path

import pytest

from fireedit.jobs.studying.study_folder import StudyError, read_study
from tests.jobs.studying.study_evaluations import write_study


def test_a_study_is_read_as_it_was_made(tmp_path: Path) -> None:
    study, folder = write_study(tmp_path, 2, ("fireedit", "mgie"))
    assert read_study(folder) == study


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "study.json: the file: Invalid JSON"),
        ("[]", "study.json: the file: .*make the study again"),
        ('{"token": 5}', "study.json: token: "),
    ],
)
def test_a_damaged_study_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(StudyError, match=message):
        read_study(tmp_path)


def test_pictures_of_every_method_are_required(tmp_path: Path) -> None:
    _, folder = write_study(tmp_path, 2, ("fireedit", "mgie"))
    text = (folder / "study.json").read_text()
    (folder / "study.json").write_text(text.replace('"mgie"\n', '"mgie",\n  "other"\n', 1))
    with pytest.raises(StudyError, match="found 2 pictures of 3 methods"):
        read_study(folder)
    with pytest.raises(StudyError, match="no such file; write the folder that `study.py make --out` made"):
        read_study(tmp_path)
