"""`jobs/study.py`: from evaluations to a report, errors in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from fireedit.jobs.study import main
from fireedit.jobs.studying.questionnaire import Questionnaire
from fireedit.jobs.studying.study_folder import read_study
from fireedit.jobs.studying.votes import Votes
from tests.jobs.studying.study_evaluations import write_evaluation


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def test_a_study_from_evaluations_to_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outs = [str(write_evaluation(tmp_path / name, name)) for name in ("fireedit", "copy")]
    folder, report = str(tmp_path / "study"), str(tmp_path / "report")
    made = run(capsys, "make", "--out", folder, "--evaluations", *outs, "--questions", "3", "--aspects", "It is nice.")
    assert made == {"out": folder, "set": "magicbrush-test", "questions": 3, "methods": ["fireedit", "copy"]}
    links = run(capsys, "invite", folder, "--count", "2", "--url", "https://study.example/")["links"]
    assert len(links) == 2 and links[0].startswith("https://study.example/s/")
    answer_all(Path(folder), [link.rpartition("/")[2] for link in links])
    found = run(capsys, "report", folder, "--out", report)
    assert (found["votes"], found["complete"], found["out"]) == (6, 2, report)
    assert found["methods"]["fireedit"]["share"] == 1 and found["places_shown"]["statistic"] == 0
    assert {path.name for path in Path(report).iterdir()} == {"report.md", "report.json", "shares.png"}


def answer_all(folder: Path, tokens: list[str]) -> None:
    """Choose the first method's pictures in all questions."""
    study = read_study(folder)
    assert study.aspects == ("It is nice.",)
    best = {question.pictures[0] for question in study.questions}
    questionnaire = Questionnaire(study, Votes.open(f"sqlite:///{folder}/votes.db", study.token))
    for token in tokens:
        state = questionnaire.consent(token)
        while state["step"] == "question":
            question = state["question"]
            (picture,) = best & set(question["pictures"])
            state = questionnaire.answer(token, question["token"], picture, 1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["make", "--out", "{}/new", "--evaluations", "{}/none"], "evaluation.json cannot be used"),
        (["serve", "{}/none"], "none/study.json: no such file"),
        (["invite", "{}/none", "--count", "2"], "none/study.json: no such file"),
        (["report", "{}/study", "--out", "{}/report"], "found no votes"),
        (["report", "{}/study", "--out", "{}/report", "--db", "mysql://x"], "write sqlite:///PATH or postgresql://"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = [str(write_evaluation(tmp_path / name, name)) for name in ("fireedit", "copy")]
    assert main(["make", "--out", str(tmp_path / "study"), "--evaluations", *outs, "--questions", "2"]) == 0
    capsys.readouterr()
    assert main([word.format(tmp_path) for word in words]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("study.py: ") and message in captured.err and "Traceback" not in captured.err
    assert not captured.out


def test_a_port_is_one_of_tcp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path), "--port", "99999"])
    assert "argument --port: found '99999'; write a whole number from 1 to 65535" in capsys.readouterr().err
