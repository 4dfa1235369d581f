"""Pipelines as the deployments load them: published folders sample as their editor does."""

from pathlib import Path

from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, PNDMScheduler

from fireedit.models.editors.editor import EditorName, load_editor
from fireedit.models.editors.instruct_pix2pix import InstructPix2Pix
from fireedit.models.pipeline import FireEditPipeline
from fireedit.serve.part import WeightsConfig, load
from tests.models.published_pipelines import SCHEDULE, tiny_instruct_pix2pix


def test_a_published_folder_is_served_with_the_scheduler_of_its_editor(tmp_path: Path) -> None:
    theirs = tiny_instruct_pix2pix()
    theirs.scheduler = PNDMScheduler(**SCHEDULE, steps_offset=1)
    theirs.save_pretrained(tmp_path)
    served = load(FireEditPipeline.PAINTING, WeightsConfig(weights=str(tmp_path), editor="instruct-pix2pix")).scheduler
    editor = load_editor(EditorName("instruct-pix2pix", str(tmp_path)))
    assert isinstance(editor, InstructPix2Pix)
    assert type(served) is EulerAncestralDiscreteScheduler and served.config == editor.pipeline.scheduler.config


def test_nano_is_served_with_its_own_scheduler() -> None:
    for name in ("fireedit", "instruct-pix2pix"):
        served = load(("scheduler",), WeightsConfig(editor=name)).scheduler
        assert type(served) is DDIMScheduler and served.config.prediction_type == "sample"
