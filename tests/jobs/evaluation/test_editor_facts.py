"""Facts of an editor are read in another process, and an editor that cannot be loaded is named."""

from pathlib import Path

import pytest

from fireedit.jobs.evaluation.editor_facts import read_facts
from fireedit.models.editors.editor import EditorError, EditorName
from fireedit.models.settings import PaintSettings


@pytest.mark.ray
def test_facts_are_read_and_failures_are_named(ray_session: None, tmp_path: Path) -> None:
    assert read_facts(EditorName("copy", ""), 0.1).settings == PaintSettings()
    with pytest.raises(EditorError, match=f"--editor magicbrush={tmp_path}: .*model_index.json"):
        read_facts(EditorName("magicbrush", str(tmp_path)), 0.1)
