"""FireEdit as an editor: the pictures of its pipeline, in any batch."""

import numpy as np
import torch
from PIL import Image

from fireedit.models.editors.editor import EditorName, load_editor
from fireedit.models.pipeline import FireEditPipeline
from tests.factories import picture


def test_pictures_are_the_pipelines_each_from_its_own_seed() -> None:
    editor = load_editor(EditorName.parse("fireedit=nano"))
    settings = editor.settings.but(num_inference_steps=2)
    pictures, texts = [picture(1), picture(2, 70, 90)], ["make the circle red", "remove the cube"]
    edited = editor.edit(pictures, texts, [5, 6], settings)
    assert [each.shape for each in edited] == [(60, 80, 3), (90, 70, 3)]
    pipeline = FireEditPipeline.from_pretrained("nano")
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        texts[1], Image.fromarray(pictures[1]), num_inference_steps=2, generator=torch.Generator().manual_seed(6)
    )
    assert np.array_equal(edited[1], np.asarray(expected.images[0]))
    assert editor.name == "fireedit" and len(editor.weights) >= 8
