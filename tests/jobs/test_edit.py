"""`jobs/edit.py` on the shipped nano weights, in process."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fireedit.jobs.edit import main
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import setting_fields
from tests.factories import picture
from tests.models.published_pipelines import tiny_instruct_pix2pix


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.png"
    Image.fromarray(picture(1)).save(path)
    return path


def test_image_is_the_pipelines(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "edited.png"
    assert main([str(source), "make it red", "--steps", "1", "--keep-below", "0", "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["edited"] == str(out) and report["regions"] > 0
    pipeline = FireEditPipeline.from_pretrained("nano")
    generator = torch.Generator().manual_seed(0)
    expected = pipeline("make it red", picture(1), num_inference_steps=1, keep_below=0, generator=generator)
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(expected.images[0]))


def test_every_setting_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(setting.flag in text for setting in setting_fields())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--keep-below", "2"], "keep_below.*2"),
        (["--weights", "/nowhere"], "/nowhere"),
        (["--steps", "0"], "num_inference_steps.*0"),
        (["--out", "edited.gif"], "edited.gif"),
        (["--size", "large"], "--size.*large"),
        (["--editor", "pix2pix=x"], "--editor pix2pix=x: 'pix2pix' is no editor; write one of"),
        (["--editor", "copy", "--server", "http://x"], "--server http://x: found with --editor copy, and only one"),
        (["--editor", "copy", "--weights", "/nowhere"], "--editor copy: found with --weights /nowhere, and only one"),
        (["--server", "http://x", "--weights", "nano"], "--server http://x: found with --weights nano, and only one"),
        (["--editor", "magicbrush=/nowhere"], "/nowhere: no such folder; write one that is there"),
        (["--editor", "magicbrush=nano"], "magicbrush has no weights that ship; write --editor magicbrush=FOLDER"),
        (["--editor", "vae=nano", "--device", "cuda:99"], "--device cuda:99: torch cannot use it"),
        (["--device", "cuda:99"], "--device cuda:99: torch cannot use it"),
        (["--instruction", "make it blue"], "--instruction: found 'make it blue' beside 'make it red'; write one"),
        (["--image-column", "x"], "--image-column is for a folder or parquet files; found the picture"),
        (["--set", "paint.max_actors=8"], "--set is for a folder or parquet files"),
        (["--format", "jpeg", "--out", "x.png"], "--format jpeg: found --out x.png; leave one of them out"),
        (["--seed", "-1"], "--seed: found -1; write a whole number from 0 to 9223372036854775807"),
        (["--seed", "18446744073709551616"], "--seed: found 18446744073709551616; write a whole number"),
    ],
)
def test_wrong_value_is_one_sentence(
    source: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    assert main([str(source), "make it red", *argv]) == 1
    err = capsys.readouterr().err
    assert re.search(f"edit.py: .*{words}", err) and "Traceback" not in err


def test_weights_that_lack_a_tensor_or_are_another_systems_are_one_sentence(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pix2pix"
    tiny_instruct_pix2pix().save_pretrained(folder)
    assert main([str(source), "make it red", "--weights", str(folder)]) == 1
    assert "which fireedit does not take; give it to the editor instruct-pix2pix or" in capsys.readouterr().err
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_norm_out.bias"]
    save_file(tensors, file)
    assert main([str(source), "make it red", "--editor", f"instruct-pix2pix={folder}"]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("edit.py: EditUNet: found no conv_norm_out.bias")


def test_another_systems_picture_has_the_sources_size(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(source), "make it red", "--editor", "vae=nano"]
    for size, expected in (("auto", (80, 60)), ("canvas", (64, 64)), ("40x30", (40, 30))):
        out = tmp_path / f"{size}.png"
        assert main([*words, "--out", str(out), "--size", size]) == 0
        with Image.open(out) as edited:
            assert edited.size == expected
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["regions"] == 0


def test_another_system_has_no_masks(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), "make it red", "--editor", "copy", "--mask", str(source)]) == 1
    assert "--mask: found with --editor copy; only FireEdit's --weights have masks" in capsys.readouterr().err


def test_many_pictures_need_a_folder_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "make it red"]) == 1
    assert "edit.py" in (err := capsys.readouterr().err) and "--out" in err


def test_neither_torch_nor_ray_is_imported_for_an_edit_through_a_service() -> None:
    code = "import sys, fireedit.jobs.edit; print([name for name in ('torch', 'ray') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
