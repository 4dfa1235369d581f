"""Questions: drawn by seed, pictures that tell nothing, evaluations that do not fit refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fireedit.jobs.studying.question_draw import make_study
from fireedit.jobs.studying.study_folder import StudyError, picture_path
from tests.factories import picture
from tests.jobs.studying.study_evaluations import METHODS, write_evaluation, write_study


def test_pictures_have_one_size_and_say_nothing(tmp_path: Path) -> None:
    study, folder = write_study(tmp_path, 3)
    assert study.methods == METHODS and len(study.questions) == 3
    for question in study.questions:
        number = int(question.output[:5])
        assert question.instruction == f"Make number {number} red." and question.size == (48, 32)
        for token in (question.source, *question.pictures):
            with Image.open(picture_path(folder, token)) as image:
                assert image.size == (48, 32) and not image.info and not image.getexif()
        with Image.open(picture_path(folder, question.source)) as image:
            assert np.array_equal(np.asarray(image), picture(number, 48, 32))
    files = {path.name for path in (folder / "pictures").iterdir()}
    assert len(files) == 3 * 8
    assert not any(
        name in (folder / "pictures" / file).read_bytes().decode("latin1") for file in files for name in METHODS
    )


def test_large_pictures_are_reduced(tmp_path: Path) -> None:
    outs = [str(write_evaluation(tmp_path / name, name, 1)) for name in ("a", "b")]
    Image.fromarray(picture(1, 2048, 1000)).save(tmp_path / "data" / "0.png")
    assert make_study(str(tmp_path / "study"), outs, 1).questions[0].size == (1024, 500)


def test_the_seed_draws_the_questions_and_nothing_else(tmp_path: Path) -> None:
    outs = [str(write_evaluation(tmp_path / name, name, 12)) for name in ("a", "b")]
    first, again, other = (
        make_study(str(tmp_path / f"study{number}"), outs, 5, seed) for number, seed in enumerate((0, 0, 1))
    )
    drawn = [[question.output for question in study.questions] for study in (first, again, other)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 5
    assert first.order_key != again.order_key and first.questions[0].source != again.questions[0].source


def test_evaluations_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    a, b = (str(write_evaluation(tmp_path / name, name)) for name in "ab")
    out = str(tmp_path / "study")
    other = str(write_evaluation(tmp_path / "other", "other", fingerprint="f2"))
    bound = str(write_evaluation(tmp_path / "bound", "vae"))
    for folders, message in (
        ([a, other], "a has fingerprint f1, other has f2; write evaluations of the same edits"),
        ([a], "found 1; write at least two"),
        ([a, a], "found a twice; write NAME=FOLDER"),
        ([a, str(tmp_path)], "evaluation.json cannot be used .*; write a folder of evaluate.py --out"),
        ([a, bound], "paints from targets"),
        ([a, b], "--questions 30: found 4 edits that all methods have"),
    ):
        with pytest.raises(StudyError, match=message):
            make_study(out, folders)
    assert not Path(out).exists()
    assert make_study(out, [f"first={a}", f"second={a}"], 2).methods == ("first", "second")
    with pytest.raises(StudyError, match="found files there, which may be votes; write a new folder"):
        make_study(out, [a, b], 2)
    with pytest.raises(StudyError, match="found an address"):
        make_study("s3://bucket/study", [a, b], 2)


def test_what_is_missing_in_an_evaluation_is_named(tmp_path: Path) -> None:
    a, b = (str(write_evaluation(tmp_path / name, name)) for name in "ab")
    shutil.rmtree(tmp_path / "b" / "pictures")
    with pytest.raises(StudyError, match=r"b/pictures/.*_1\.png: .*put the picture back"):
        make_study(str(tmp_path / "study"), [a, b], 2)
    (tmp_path / "b" / "turns.jsonl").unlink()
    with pytest.raises(StudyError, match=r"found no turns\.jsonl.*give the same evaluate\.py command again"):
        make_study(str(tmp_path / "study"), [a, b], 2)
    (tmp_path / "b" / "turns.jsonl").write_text('{"output": 5}\n')
    with pytest.raises(StudyError, match=r"turns\.jsonl cannot be read"):
        make_study(str(tmp_path / "study"), [a, b], 2)
    text = (tmp_path / "a" / "turns.jsonl").read_text()
    (tmp_path / "b" / "turns.jsonl").write_text(text.replace("red", "blue"))
    with pytest.raises(StudyError, match="different instructions"):
        make_study(str(tmp_path / "study"), [a, b], 2)
