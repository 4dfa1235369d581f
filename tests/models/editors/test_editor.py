"""Editors by name: what the command line takes, and what it says instead."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fireedit.models.editors.editor import EDITORS, EditorError, EditorName, load_editor
from fireedit.models.settings import PaintSettings
from tests.factories import picture

SHIPPED = ("fireedit", "instruct-pix2pix", "vae", "copy")
PUBLISHED = "StableDiffusionInstructPix2PixPipeline"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("instructpix2pix=x", "'instructpix2pix' is no editor; write one of fireedit, instruct-pix2pix"),
        ("magicbrush", "found no folder of weights; write --editor magicbrush=FOLDER"),
        ("", "'' is no editor"),
        ("folder", "vae, or for jobs/evaluate.py folder=PICTURES"),
        ("copy=nano", "copy takes no folder; write --editor copy"),
        *((f"{name}=nano", f"{name} has no weights that ship; write") for name in EDITORS if name not in SHIPPED),
        *((f"{name}=/no/such", "^/no/such: no such folder; write") for name in EDITORS if name != "copy"),
    ],
)
def test_an_unknown_editor_or_a_missing_folder_is_refused(text: str, message: str) -> None:
    with pytest.raises(EditorError, match=message):
        EditorName.parse(text)


def test_a_folder_may_hold_an_equals_sign(tmp_path: Path) -> None:
    (folder := tmp_path / "a=b").mkdir()
    assert EditorName.parse(f"hq-edit={folder}") == EditorName("hq-edit", str(folder))


def test_a_folder_is_absolute_for_other_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    assert EditorName.parse("hq-edit=weights").folder == str(tmp_path / "weights")
    assert EditorName.parse("fireedit=nano").folder == "nano"
    with pytest.raises(EditorError, match="found an address; copy the folder to this machine"):
        EditorName.parse("fireedit=s3://bucket/weights")


@pytest.mark.parametrize(
    ("editor", "kind", "takers"),
    [
        ("instruct-pix2pix", "StableDiffusion3InstructPix2PixPipeline", "the editor ultraedit$"),
        ("magicbrush", "FireEditPipeline", "the editor fireedit or instruct-pix2pix$"),
        ("ultraedit", PUBLISHED, "the editor instruct-pix2pix or magicbrush or hq-edit or hq-edit-code$"),
        ("fireedit", PUBLISHED, "the editor instruct-pix2pix or"),
        ("smartedit", PUBLISHED, "the editor instruct-pix2pix or"),
        ("hq-edit", "FluxPipeline", "docs/evaluation.md says which"),
    ],
)
def test_another_systems_folder_is_refused(editor: str, kind: str, takers: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{kind}"}}')
    message = f"^{tmp_path}: found a pipeline of class {kind}, which {editor} does not take; .*{takers}"
    for use in (EditorName.parse, lambda _: load_editor(EditorName(editor, str(tmp_path)))):
        with pytest.raises(EditorError, match=message):
            use(f"{editor}={tmp_path}")


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_torch_lacks_is_refused_before_weights_are_read(device: str) -> None:
    for name in EDITORS:
        with pytest.raises(ValueError, match=f"--device {device}: torch cannot use it"):
            load_editor(EditorName(name, "/no/such"), device)


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
