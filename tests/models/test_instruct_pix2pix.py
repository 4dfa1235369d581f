"""Tiny random InstructPix2Pix in diffusers' format: our sampler's pictures are those of diffusers' own pipeline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import AutoTokenizer

from fireedit.models.checkpoint_files import CheckpointFileError
from fireedit.models.instruct_pix2pix import PARTS, load_instruct_pix2pix
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.text import TextConfig, build_text_encoder, text_states, tokenize_text
from fireedit.models.vae import decode_latents
from fireedit.models.weights import WeightsError
from tests.factories import picture, shaken

STEPS, PROMPT = 3, "make the red circle blue"
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def theirs() -> StableDiffusionInstructPix2PixPipeline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(NANO / "tokenizer")
        text = TextConfig(vocab_size=len(tokenizer), width=32, mlp_width=64, layers=2, heads=4)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=32,
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 64),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            sample_size=256,  # of its training: pictures of this UNet have 32
        )
        parts = {"unet": unet, "vae": vae, "text_encoder": build_text_encoder(text)}
    pipeline = StableDiffusionInstructPix2PixPipeline(
        **{name: shaken(part).eval() for name, part in parts.items()},
        tokenizer=tokenizer,
        scheduler=EulerAncestralDiscreteScheduler(**SCHEDULE, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(theirs: StableDiffusionInstructPix2PixPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    theirs.save_pretrained(folder)
    return folder


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
        (EulerAncestralDiscreteScheduler, {"guidance_scale": 3.0, "image_guidance_scale": 1.0}),
        (EulerAncestralDiscreteScheduler, {"negative_prompt": "blurry"}),
        (DDIMScheduler, {"guidance_scale": 5.0}),
    ],
)
def test_pictures_are_those_of_diffusers(
    theirs: StableDiffusionInstructPix2PixPipeline, scheduler: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    theirs.scheduler = scheduler(**SCHEDULE, steps_offset=1)
    theirs.save_pretrained(tmp_path)
    ours = load_instruct_pix2pix(tmp_path)
    ours.set_progress_bar_config(disable=True)
    image = picture(1, 32, 32)
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
