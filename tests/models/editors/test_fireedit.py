"""FireEdit as an editor: the pictures of its pipeline, in any batch; given regions; parts that are left out."""

import numpy as np
import pytest
import torch
from PIL import Image

from fireedit.models.editors.editor import EditorName, load_editor
from fireedit.models.editors.fireedit import FireEdit
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import PaintSettings
from tests.factories import picture

FEW = PaintSettings(num_inference_steps=2)
PICTURES, TEXTS = [picture(1), picture(2, 70, 90)], ["make the circle red", "remove the cube"]


@pytest.fixture(scope="module")
def fresh() -> FireEditPipeline:
    return FireEditPipeline.fresh(seed=0)


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


def test_the_vlm_looks_at_the_regions_that_are_given(fresh: FireEditPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = list[list[int]]()
    perceive = fresh.perceive

    def noting(*inputs: object) -> object:
        percepts = perceive(*inputs)  # type: ignore[arg-type]
        looked.append([len(boxes) for boxes in percepts.boxes])
        return percepts

    monkeypatch.setattr(fresh, "perceive", noting)
    editor = FireEdit(fresh)
    edited = editor.edit(PICTURES, TEXTS, [5, 6], FEW, [np.array([[0, 0, 0.5, 0.5], [0, 0, 1, 1]]), np.zeros((0, 4))])
    assert looked == [[2, 0]] and [each.shape for each in edited] == [(60, 80, 3), (90, 70, 3)]


def test_a_pipeline_without_a_detector_gets_no_regions(fresh: FireEditPipeline) -> None:
    bare = FireEditPipeline(**fresh.components | {"detector": None, "region_encoder": None})
    edited = FireEdit(bare).edit(PICTURES, TEXTS, [5, 6], FEW, [np.array([[0, 0, 0.5, 0.5]])] * 2)
    plain = FireEdit(bare).edit(PICTURES, TEXTS, [5, 6], FEW)
    assert all(np.array_equal(one, other) for one, other in zip(edited, plain, strict=True))


def test_leaving_out_fresh_parts_changes_nothing(fresh: FireEditPipeline) -> None:
    """TATI and HVCA start as no-ops, so a fresh pipeline samples the same without them."""
    whole = FireEdit(fresh).edit(PICTURES, TEXTS, [5, 6], FEW)
    bare = FireEditPipeline(**fresh.components | {"hvca": None, "tati": None})
    for one, other in zip(whole, FireEdit(bare).edit(PICTURES, TEXTS, [5, 6], FEW), strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
