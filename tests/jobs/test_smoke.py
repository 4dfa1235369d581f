"""`jobs/smoke.py`: parts in processes of their own, a table, and a status that says whether all of them ran."""

import json

import pytest

from fireedit.jobs import smoke
from fireedit.jobs.planning.full_size import Ran


def test_a_part_runs_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main(["--config", "nano", "--parts", "perceive", "--device", "cpu"]) == 0
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert report["failed"] == [] and report["parts"]["perceive"]["as_counted"] and report["peak_gib"] > 0.1
    assert "image_tokens [1, 16, 384]" in output.err and "all parts run" in output.err


def test_a_part_that_fails_is_named_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object, part: str, *__: object) -> Ran:
        if part == "understand":
            raise KeyError("out of memory")
        return Ran(
            part=part,
            parameters={"vision": 1},
            dtypes={"vision": "bfloat16"},
            outputs={"boxes": [1, 4]},
            finite=part != "paint",
            build_s=1.0,
            run_s=2.0,
            peak_bytes=2**30,
        )

    monkeypatch.setattr(smoke, "in_new_process", run)
    assert smoke.main(["--config", "nano", "--parts", "perceive,understand,paint", "--device", "cpu"]) == 1
    output = capsys.readouterr()
    assert "understand  failed: 'out of memory'" in output.err and "NOT FINITE" in output.err
    assert json.loads(output.out)["failed"] == ["perceive", "understand", "paint"], "the first has other parameters"


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(SystemExit, match="found 'draw'; write some of perceive, understand"):
        smoke.main(["--parts", "draw"])


@pytest.mark.soak
def test_the_whole_network_runs_at_its_true_size_below_20_gb(capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main(["--config", "paper", "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] == [] and report["peak_gib"] * smoke.GIB < 20e9
