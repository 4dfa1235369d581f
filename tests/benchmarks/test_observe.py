"""The check of metrics, dashboard and logs fails when something is missing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fireedit.benchmarks import observe
from fireedit.benchmarks.observe import COMPONENTS, REQUEST_ID, Report, silent_components


def test_a_report_passes_only_without_faults() -> None:
    good = Report(alerts={"FireEditErrors": "inactive"}, kill_noticed=True)
    assert good.passed()
    assert not Report().passed()
    assert not replace(good, alerts={"FireEditErrors": "firing"}).passed()
    assert not replace(good, missing_metrics=["fireedit_e2e_seconds"]).passed()
    assert not replace(good, silent_components=["UNet"]).passed()
    assert not replace(good, kill_noticed=False).passed()


def test_components_that_do_not_log_the_request_are_found(tmp_path: Path) -> None:
    for component in COMPONENTS:
        wrong = {"Detector": f"INFO {REQUEST_ID} -- text", "VLM": '{"request_id": "other"}'}
        line = wrong.get(component, f'{{"request_id": "{REQUEST_ID}"}}')
        (tmp_path / f"replica_fireedit_{component}_x1.log").write_text(line)
    assert silent_components(tmp_path) == ["Detector", "VLM"]


def test_without_prometheus_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    observe.main(["--out", str(tmp_path)])
    out, err = capsys.readouterr()
    assert "install Debian's package prometheus" in err and json.loads(out) == {"skipped": "no prometheus"}
