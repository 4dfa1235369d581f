"""InstructPix2Pix as an editor: the pictures of diffusers' own pipeline at any aspect, its size rule, its folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionInstructPix2PixPipeline,
)
from PIL import Image
from safetensors.torch import load_file, save_file

from fireedit.models.checkpoint_files import CheckpointFileError
from fireedit.models.editors.editor import EditorError, EditorName, load_editor
from fireedit.models.editors.instruct_pix2pix import PARTS, InstructPix2Pix, fit, load_instruct_pix2pix
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.settings import PaintSettings
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.vae import decode_latents
from fireedit.models.weights import WeightsError
from tests.factories import picture
from tests.models.published_pipelines import SCHEDULE, tiny_instruct_pix2pix

STEPS, PROMPT = 3, "make the red circle blue"
TEXTS = ["make the red circle blue", "remove the cube", "make it night"]


@pytest.fixture(scope="module")
def theirs() -> StableDiffusionInstructPix2PixPipeline:
    return tiny_instruct_pix2pix()


@pytest.fixture(scope="module")
def folder(theirs: StableDiffusionInstructPix2PixPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instruct-pix2pix")
    theirs.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), (512, 512)), ((1024, 768), (512, 384)), ((500, 333), (576, 384)), ((333, 500), (384, 576))]
    + [((1000, 200), (640, 128)), ((90, 64), (512, 384)), ((4000, 3000), (512, 384))],
)
def test_sizes_are_those_of_edit_cli(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit(Image.new("RGB", size)).size == expected


def test_an_aspect_is_cropped_at_the_center_not_squashed() -> None:
    source = np.zeros((200, 1000, 3), np.uint8)
    source[:, 400:600] = 255
    fitted = np.asarray(fit(Image.fromarray(source)))
    white = np.flatnonzero(fitted[64, :, 0] > 127)
    assert fitted.shape == (128, 640, 3) and (white[0], white[-1]) == (256, 383)


def shrunk(image: Image.Image) -> Image.Image:
    """Bring a picture to a size that this test paints quickly."""
    return image.resize((image.width // 16 * 8, image.height // 16 * 8))


def test_pictures_are_those_of_diffusers_at_any_aspect(
    theirs: StableDiffusionInstructPix2PixPipeline, folder: Path
) -> None:
    editor = InstructPix2Pix("instruct-pix2pix", load_instruct_pix2pix(folder), fit=shrunk)
    pictures = [picture(1, 96, 64), picture(2, 64, 96), picture(3, 96, 64)]
    settings = editor.settings.but(num_inference_steps=3)
    edited = editor.edit(pictures, TEXTS, [7, 8, 9], settings)
    theirs.scheduler = EulerAncestralDiscreteScheduler.from_config(theirs.scheduler.config)
    for index, source in enumerate(pictures):
        arguments: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 7.5, "image_guidance_scale": 1.5}
        generator = torch.Generator().manual_seed(7 + index)
        image = shrunk(Image.fromarray(source))
        expected = theirs(TEXTS[index], image, generator=generator, output_type="np", **arguments).images[0]
        assert expected.std() > 0.05, "an edit that shows something"
        assert np.abs(edited[index] / 255 - expected).max() < 0.5 / 255 + 1e-4, "equal but for the rounding to 8 bits"


def test_a_batch_changes_nothing(folder: Path) -> None:
    editor = InstructPix2Pix("instruct-pix2pix", load_instruct_pix2pix(folder), fit=shrunk)
    settings = editor.settings.but(num_inference_steps=2)
    pictures = [picture(1, 96, 64), picture(2, 96, 64)]
    together = editor.edit(pictures, TEXTS[:2], [1, 2], settings)
    alone = editor.edit(pictures[1:], TEXTS[1:2], [2], settings)
    assert np.array_equal(together[1], alone[0])


def test_the_published_folder_loads_with_the_papers_settings(folder: Path) -> None:
    editor = load_editor(EditorName("instruct-pix2pix", str(folder)))
    assert editor.settings == PaintSettings(num_inference_steps=100, guidance_scale=7.5, image_guidance_scale=1.5)
    assert editor.name == "instruct-pix2pix" and len(editor.weights) >= 8
    with pytest.raises(EditorError, match=r"has no keep_below: found 0.1; leave it at 0.0"):
        editor.edit([picture(1)], TEXTS[:1], [0], editor.settings.but(keep_below=0.1))


@torch.no_grad()
def edited(pipeline: FireEditPipeline, image: np.ndarray, seed: int = 7, **settings: Any) -> np.ndarray:
    """Edit with the text encoder's states as edit tokens, and without percepts."""
    tokens = text_states(pipeline.text_encoder, tokenize_text(pipeline.tokenizer, [PROMPT], 77))
    changed = pipeline.settings.but(num_inference_steps=STEPS, **settings)
    state = pipeline.prepare([image], None, tokens, changed, [torch.Generator().manual_seed(seed)])
    canvases = decode_latents(pipeline.vae, pipeline.paint(state))
    return ((canvases + 1) / 2).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("scheduler", "settings"),
    [
        (EulerAncestralDiscreteScheduler, {}),
        (EulerAncestralDiscreteScheduler, {"size": (48, 32)}),
        (EulerAncestralDiscreteScheduler, {"guidance_scale": 3.0, "image_guidance_scale": 1.0}),
        (EulerAncestralDiscreteScheduler, {"negative_prompt": "blurry"}),
        (DDIMScheduler, {"guidance_scale": 5.0}),
        (PNDMScheduler, {}),
    ],
)
def test_pictures_are_those_of_diffusers(
    theirs: StableDiffusionInstructPix2PixPipeline, scheduler: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    theirs.scheduler = scheduler(**SCHEDULE, steps_offset=1)
    theirs.save_pretrained(tmp_path)
    saved = scheduler.from_pretrained(tmp_path / "scheduler")
    theirs.scheduler = EulerAncestralDiscreteScheduler.from_config(saved.config)
    ours = load_instruct_pix2pix(tmp_path)
    assert type(ours.scheduler) is EulerAncestralDiscreteScheduler, "whatever the folder names"
    ours.set_progress_bar_config(disable=True)
    settings = dict(settings)
    image = picture(1, *settings.pop("size", (32, 32)))
    generator = torch.Generator().manual_seed(7)
    arguments = {"num_inference_steps": STEPS, "generator": generator, "output_type": "np", **settings}
    expected = theirs(PROMPT, Image.fromarray(image), **arguments).images
    assert expected.std() > 0.05, "an edit that shows something"
    assert np.abs(edited(ours, image, **settings) - expected).max() < 1e-4


def test_defaults_are_those_of_diffusers(folder: Path) -> None:
    settings = load_instruct_pix2pix(folder, parts=()).settings
    assert (settings.num_inference_steps, settings.guidance_scale, settings.image_guidance_scale) == (100, 7.5, 1.5)


def test_only_the_parts_asked_for_are_loaded_and_others_of_fireedit_left_out(folder: Path) -> None:
    text = load_instruct_pix2pix(folder, parts=("text_encoder", "tokenizer"))
    assert {name for name, part in text.components.items() if part is not None} == {"text_encoder", "tokenizer"}
    painting = load_instruct_pix2pix(folder, parts=FireEditPipeline.PAINTING, dtype=torch.bfloat16)
    assert {name for name, part in painting.components.items() if part is not None} == set(PARTS)
    assert painting.vae.config.sample_size == 32 and painting.unet.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in painting.unet.parameters())


def test_a_folder_of_fireedit_gives_its_text_encoder_unet_and_codec() -> None:
    pipeline = load_instruct_pix2pix(NANO, parts=FireEditPipeline.PAINTING)
    pipeline.set_progress_bar_config(disable=True)
    assert {name for name, part in pipeline.components.items() if part is not None} == set(PARTS)
    assert edited(pipeline, picture(1, 64, 64)).shape == (1, 64, 64, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 4}, "in_channels 4"),
        ({"use_linear_projection": True}, "use_linear_projection True"),
        ({"class_embed_type": "timestep"}, "class_embed_type timestep"),
    ],
)
def test_a_unet_of_another_architecture_is_refused(
    theirs: StableDiffusionInstructPix2PixPipeline, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    theirs.save_pretrained(tmp_path)
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(WeightsError, match=message):
        load_instruct_pix2pix(tmp_path)


def test_a_missing_file_is_named(theirs: StableDiffusionInstructPix2PixPipeline, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointFileError, match="vae"):
        load_instruct_pix2pix(tmp_path)


def test_a_text_encoder_that_lacks_a_tensor_is_refused(
    theirs: StableDiffusionInstructPix2PixPipeline, tmp_path: Path
) -> None:
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    absent, _ = tensors.popitem()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=f"text_encoder: found no .*{absent} for a CLIPTextModel; download it again"):
        load_instruct_pix2pix(tmp_path)


def test_another_systems_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3InstructPix2PixPipeline"}')
    with pytest.raises(EditorError, match="which instruct-pix2pix does not take; give it to the editor ultraedit"):
        load_instruct_pix2pix(tmp_path)


def test_a_pipeline_of_fireedits_own_paints_its_square_without_the_vlm() -> None:
    editor = load_editor(EditorName.parse("instruct-pix2pix=nano"))
    pipeline = load_instruct_pix2pix("nano")
    settings = pipeline.settings.but(num_inference_steps=2)
    assert editor.settings == pipeline.settings and type(editor.pipeline.scheduler) is type(pipeline.scheduler)
    edited = editor.edit([picture(1), picture(2, 64, 64)], TEXTS[:2], [5, 6], settings)
    assert [each.shape for each in edited] == [(64, 64, 3)] * 2
    ids = tokenize_text(pipeline.tokenizer, TEXTS[1:2], pipeline.text_encoder.config.max_position_embeddings)
    noise = [torch.Generator().manual_seed(6)]
    pipeline.set_progress_bar_config(disable=True)
    tokens = text_states(pipeline.text_encoder, ids)
    state = pipeline.prepare([picture(2, 64, 64)], None, tokens.detach(), settings, noise)
    assert np.abs(edited[1].astype(int) - pipeline.decode(pipeline.paint(state))[0]).max() <= 1
