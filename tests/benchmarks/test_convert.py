"""The conversion takes hardly more memory than its largest part."""

import json

import pytest

from fireedit.benchmarks.convert import BOUND, main


@pytest.mark.soak
def test_peak_of_memory_is_that_of_the_largest_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--width", "1024"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["largest_mb"] > 500 and sum(report["parts_mb"].values()) > 1.9 * report["largest_mb"]
    assert report["peak_mb"] < BOUND * report["largest_mb"]
