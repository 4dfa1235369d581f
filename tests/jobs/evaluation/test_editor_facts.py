"""Facts of an editor are read in another process, and an editor that cannot be loaded is named."""

from pathlib import Path

import pytest
import ray

from fireedit.jobs.evaluation.editor_facts import read_facts
from fireedit.models.editors.editor import EditorError, EditorName
from fireedit.models.settings import PaintSettings


@pytest.mark.ray
def test_facts_are_read_and_failures_are_named(ray_session: None, tmp_path: Path) -> None:
    copy = EditorName("copy", "")
    assert read_facts(copy, 0.1, {"guidance_scale": None}).settings == PaintSettings()
    assert read_facts(copy, 0.1, {"guidance_scale": 3.0}).settings == PaintSettings(guidance_scale=3.0)
    with pytest.raises(EditorError, match=f"--editor magicbrush={tmp_path}: .*model_index.json"):
        read_facts(EditorName("magicbrush", str(tmp_path)), 0.1, {})


def test_settings_are_checked_before_a_process_starts() -> None:
    with pytest.raises(ValueError, match="num_inference_steps is 0"):
        read_facts(EditorName("copy", ""), 0.1, {"num_inference_steps": 0})


@pytest.mark.ray
def test_a_process_that_has_no_room_is_refused(ray_session: None) -> None:
    with pytest.raises(EditorError, match=r"the job takes 64 CPUs, this Ray has .*; write --cpus"):
        read_facts(EditorName("copy", ""), 64, {})


@pytest.mark.ray
def test_a_process_that_dies_is_one_sentence(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(_: object) -> None:
        raise ray.exceptions.WorkerCrashedError

    monkeypatch.setattr(ray, "get", died)
    with pytest.raises(EditorError, match=r"^--editor copy=: The worker died unexpectedly[^\n]*; start again$"):
        read_facts(EditorName("copy", ""), 0.1, {})
