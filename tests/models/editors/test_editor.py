"""Editors by name: what the command line takes, and what it says instead."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fireedit.models.editors.editor import EDITORS, EditorError, EditorName, load_editor
from fireedit.models.settings import PaintSettings
from tests.factories import picture


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("instructpix2pix=x", "'instructpix2pix' is no editor; write one of fireedit, instruct-pix2pix"),
        ("magicbrush", "found no folder of weights; write --editor magicbrush=FOLDER"),
        ("", "'' is no editor"),
    ],
)
def test_an_unknown_editor_or_a_missing_folder_is_refused(text: str, message: str) -> None:
    with pytest.raises(EditorError, match=message):
        EditorName.parse(text)


def test_a_folder_may_hold_an_equals_sign() -> None:
    assert EditorName.parse("hq-edit=/weights/a=b") == EditorName("hq-edit", "/weights/a=b")


def test_a_folder_is_absolute_for_other_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert EditorName.parse("hq-edit=weights").folder == str(tmp_path / "weights")
    assert EditorName.parse("fireedit=nano").folder == "nano"


def test_a_baseline_needs_no_folder() -> None:
    editor, source = load_editor(EditorName.parse("copy")), picture(1)
    (edited,) = editor.edit([source], ["make it red"], [0], PaintSettings())
    assert np.array_equal(edited, source)


def test_names_are_known_without_importing_torch() -> None:
    code = "from fireedit.models.editors import editor; import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", list(EDITORS))
def test_a_missing_folder_is_named(name: str, tmp_path: Path) -> None:
    if name == "copy":
        return
    with pytest.raises((OSError, ValueError), match=str(tmp_path / "absent")):
        load_editor(EditorName(name, str(tmp_path / "absent")))
