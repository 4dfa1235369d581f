"""UltraEdit as an editor: both published models against its pipeline's rules, written out branch by branch."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from fireedit.models.editors.editor import EditorName, load_editor
from fireedit.models.editors.ultraedit import UltraEdit
from fireedit.models.weights import WeightsError
from tests.factories import picture
from tests.models.published_pipelines import tiny_ultraedit

SIDE, STEPS, TEXT = 32, 3, "make the red circle blue"


@torch.no_grad()
def expected(pipe: StableDiffusion3Pipeline, source: np.ndarray, seed: int, has_mask: bool) -> np.ndarray:
    """Edit one picture, each branch in a forward of its own; [S, S, 3] in [0, 1]."""
    squashed = np.asarray(Image.fromarray(source).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    image = torch.from_numpy(squashed / 255).to(pipe.vae.dtype).permute(2, 0, 1)[None] * 2 - 1
    conditions = [pipe.vae.encode(image).latent_dist.mode()]  # neither scaled nor shifted
    if has_mask:
        white = torch.full_like(image, 255.0) / 127.5 - 1
        conditions.append(pipe.vae.encode(white).latent_dist.mode())
    blank = [torch.zeros_like(each) for each in conditions]
    texts, nothing, pooled, pooled_nothing = pipe.encode_prompt(
        TEXT, None, None, negative_prompt="", max_sequence_length=77
    )
    assert texts.shape[1] == nothing.shape[1] == 154, "77 positions of CLIP, 77 of T5"
    latents = torch.randn(conditions[0].shape, generator=torch.Generator().manual_seed(seed), dtype=image.dtype)
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(STEPS)

    def velocity(time: Tensor, shown: list[Tensor], states: Tensor, pooled_states: Tensor) -> Tensor:
        read = torch.cat([latents, *shown], dim=1)
        return pipe.transformer(read, states, pooled_states, time[None]).sample

    for time in scheduler.timesteps:
        full = velocity(time, conditions, texts, pooled)
        shown = velocity(time, conditions, nothing, pooled_nothing)
        neither = velocity(time, blank, nothing, pooled_nothing)
        latents = scheduler.step(neither + 7.5 * (full - shown) + 1.5 * (shown - neither), time, latents).prev_sample
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample  # without the shift
    return ((decoded[0].permute(1, 2, 0) + 1) / 2).clamp(0, 1).numpy()


@pytest.mark.parametrize("has_mask", [False, True])
def test_pictures_follow_its_pipeline(has_mask: bool, tmp_path: Path) -> None:
    pipe = tiny_ultraedit(tmp_path, has_mask).to(torch.float64)  # random weights amplify the errors of float32
    editor = load_editor(EditorName("ultraedit", str(tmp_path)))
    assert isinstance(editor, UltraEdit) and editor.has_mask == has_mask
    editor.pipeline.to(torch.float64)
    editor.side = SIDE
    pictures, settings = [picture(1), picture(2, 50, 90)], editor.settings.but(num_inference_steps=STEPS)
    edited = editor.edit(pictures, [TEXT] * 2, [4, 5], settings)
    for index, source in enumerate(pictures):
        wanted = expected(pipe, source, 4 + index, has_mask)
        assert wanted.std() > 0.05, "an edit that shows something"
        assert np.abs(edited[index] / 255 - wanted).max() < 0.5 / 255 + 1e-4, "equal but for the rounding to 8 bits"


def test_settings_are_the_published_ones(tmp_path: Path) -> None:
    tiny_ultraedit(tmp_path, has_mask=False)
    editor = load_editor(EditorName("ultraedit", str(tmp_path)))
    found = editor.settings
    assert (found.num_inference_steps, found.guidance_scale, found.image_guidance_scale) == (50, 7.5, 1.5)


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2"])
def test_a_part_that_lacks_a_tensor_is_refused(part: str, tmp_path: Path) -> None:
    tiny_ultraedit(tmp_path, has_mask=False)
    (file,) = (tmp_path / part).glob("*.safetensors")
    tensors = load_file(file)
    absent, _ = tensors.popitem()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=f"^{tmp_path / part}: found no {absent} for a .*; download it again$"):
        load_editor(EditorName("ultraedit", str(tmp_path)))


def test_a_text_to_image_model_is_refused(tmp_path: Path) -> None:
    pipe = tiny_ultraedit(tmp_path, has_mask=False)
    pipe.transformer.register_to_config(in_channels=8)
    with pytest.raises(WeightsError, match="8 input channels; UltraEdit's have 16 or 24"):
        UltraEdit(pipe)
