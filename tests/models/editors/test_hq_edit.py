"""HQ-Edit as an editor: its size, and its two published settings."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fireedit.models.editors.editor import EditorName, load_editor
from fireedit.models.editors.instruct_pix2pix import InstructPix2Pix
from tests.factories import picture
from tests.models.published_pipelines import tiny_instruct_pix2pix


@pytest.mark.parametrize(("name", "scale"), [("hq-edit", 7.0), ("hq-edit-code", 1.5)])
def test_it_has_its_published_settings_and_size(name: str, scale: float, tmp_path: Path) -> None:
    tiny_instruct_pix2pix().save_pretrained(tmp_path)
    editor = load_editor(EditorName(name, str(tmp_path)))
    found = editor.settings
    assert (found.num_inference_steps, found.guidance_scale, found.image_guidance_scale) == (30, scale, 1.5)
    assert isinstance(editor, InstructPix2Pix) and editor.name == name
    source = Image.fromarray(picture(1))
    assert np.array_equal(editor.fit(source), source.resize((512, 512), Image.Resampling.BICUBIC))
    editor.fit = lambda image: image.resize((32, 32))  # painted quickly
    (edited,) = editor.edit([picture(1)], ["make it red"], [0], found.but(num_inference_steps=2))
    assert edited.shape == (32, 32, 3) and edited.std() > 10
