"""The check of metrics, dashboard and logs fails when something is missing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fireedit.benchmarks import observe
from fireedit.benchmarks.observe import COMPONENTS, REQUEST_ID, Report, edit_line, lines_of_request


def test_a_report_passes_only_without_faults() -> None:
    line = {"outcome": "ok", "stages": {"detector": {}, "vlm": {}, "unet": {}}}
    good = Report(alerts={"FireEditErrors": "inactive"}, kill_noticed=True, edit_line=line)
    assert good.passed()
    assert not Report().passed()
    assert not replace(good, alerts={"FireEditErrors": "firing"}).passed()
    assert not replace(good, missing_metrics=["fireedit_e2e_seconds"]).passed()
    assert not replace(good, silent_components=["UNet"]).passed()
    assert not replace(good, kill_noticed=False).passed()
    assert not replace(good, edit_line={}).passed()


def test_only_json_lines_with_the_id_of_the_request_count(tmp_path: Path) -> None:
    own = json.dumps({"outcome": "ok"})
    lines = {
        "Gateway": [{"request_id": REQUEST_ID, "message": "GET / 200"}, {"request_id": REQUEST_ID, "message": own}],
        "VLM": [{"request_id": "other", "message": "CALL understand"}],
    }
    for component in COMPONENTS:
        texts = [json.dumps(line) for line in lines.get(component, [])] or [f"INFO {REQUEST_ID} -- no JSON"]
        (tmp_path / f"replica_fireedit_{component}_x1.log").write_text("\n".join(texts))
    messages = lines_of_request(tmp_path)
    assert [component for component, found in messages.items() if found] == ["Gateway"]
    assert edit_line(messages["Gateway"]) == {"outcome": "ok"} and edit_line([]) == {}


def test_without_prometheus_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    observe.main(["--out", str(tmp_path)])
    out, err = capsys.readouterr()
    assert "install Debian's package prometheus" in err and json.loads(out) == {"skipped": "no prometheus"}
