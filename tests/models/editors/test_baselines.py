"""Baselines: the reconstruction is the VAE's, at the size that its editors paint."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fireedit.models.editors.editor import EditorName, load_editor
from fireedit.models.settings import PaintSettings
from tests.factories import picture
from tests.models.published_pipelines import tiny_instruct_pix2pix


def test_a_lossless_codec_gives_back_its_canvas() -> None:
    editor, source = load_editor(EditorName.parse("vae=nano")), picture(1)
    (edited,) = editor.edit([source], [""], [0], PaintSettings())
    expected = np.asarray(Image.fromarray(source).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(edited.astype(int) - expected).max() <= 1


@torch.no_grad()
def test_a_vae_reconstructs_at_the_size_of_edit_cli(tmp_path: Path) -> None:
    pipeline = tiny_instruct_pix2pix()
    pipeline.save_pretrained(tmp_path)
    editor, source = load_editor(EditorName("vae", str(tmp_path))), picture(1, 128, 64)
    (edited,) = editor.edit([source], [""], [0], PaintSettings())
    pixels = torch.from_numpy(np.array(Image.fromarray(source).resize((512, 256), Image.Resampling.LANCZOS)))
    latents = pipeline.vae.encode(pixels.permute(2, 0, 1)[None] / 127.5 - 1).latent_dist.mode()
    expected = (pipeline.vae.decode(latents).sample[0].clamp(-1, 1) + 1) * 127.5
    assert edited.shape == (256, 512, 3)
    assert np.abs(edited - expected.permute(1, 2, 0).numpy()).max() < 0.51
