"""MagicBrush as an editor: diffusers' folder and the authors' checkpoint, of which no code runs."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline

from fireedit.models.checkpoint_files import CheckpointFileError
from fireedit.models.editors import magicbrush
from fireedit.models.editors.editor import EditorName, load_editor
from fireedit.models.editors.instruct_pix2pix import InstructPix2Pix, load_instruct_pix2pix
from fireedit.models.model import FireEditConfig, preset
from fireedit.models.unet import UNetConfig
from fireedit.models.vae import VAEConfig
from tests.factories import picture
from tests.models.published_pipelines import TEXT, ldm_state, tiny_instruct_pix2pix, with_averages


@pytest.fixture(scope="module")
def theirs() -> StableDiffusionInstructPix2PixPipeline:
    return tiny_instruct_pix2pix()


def sizes() -> FireEditConfig:
    """Sizes of the tiny pipeline."""
    paper = preset("paper")
    unet = UNetConfig(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    vae = VAEConfig(sample_size=32, block_out_channels=(32, 32, 64), layers_per_block=1, **blocks)
    return paper.__class__(**{**vars(paper), "unet": unet, "vae": vae, "text": TEXT})


class Callback:
    """Object as Lightning leaves in its checkpoints."""

    def __init__(self) -> None:
        self.best = {"score": 1.0}


class Intruder:
    """Object that runs code when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.path)!r}, 'w').close()",)


def write_checkpoint(pipeline: StableDiffusionInstructPix2PixPipeline, path: Path, **others: Any) -> None:
    state = OrderedDict(with_averages(ldm_state(pipeline)))
    held = {"epoch": 52, "global_step": 4999, "state_dict": state, "callbacks": {Callback: Callback()}, **others}
    torch.save(held, path)


def test_the_checkpoint_loads_with_its_averages(theirs: StableDiffusionInstructPix2PixPipeline, tmp_path: Path) -> None:
    path = tmp_path / "MagicBrush-epoch-52-step-4999.ckpt"
    write_checkpoint(theirs, path)
    theirs.tokenizer.save_pretrained(tmp_path / "tokenizer")
    ours = magicbrush.load_checkpoint(path, tmp_path / "tokenizer", sizes())
    assert type(ours.scheduler) is EulerAncestralDiscreteScheduler
    theirs.save_pretrained(tmp_path / "port")
    port = load_instruct_pix2pix(tmp_path / "port")
    for name in ("unet", "vae", "text_encoder"):
        expected = getattr(port, name).state_dict()
        for tensor_name, tensor in getattr(ours, name).state_dict().items():
            assert torch.equal(tensor, expected[tensor_name]), f"{name}: {tensor_name}"
    editor = InstructPix2Pix("magicbrush", ours, fit=lambda image: image.resize((48, 32)))
    (edited,) = editor.edit([picture(1)], ["make it red"], [0], editor.settings.but(num_inference_steps=2))
    assert edited.shape == (32, 48, 3) and edited.std() > 10


def test_no_code_of_a_checkpoint_runs(theirs: StableDiffusionInstructPix2PixPipeline, tmp_path: Path) -> None:
    path, sign = tmp_path / "MagicBrush.ckpt", tmp_path / "sign"
    write_checkpoint(theirs, path, hyper_parameters=Intruder(sign))
    theirs.tokenizer.save_pretrained(tmp_path / "tokenizer")
    magicbrush.load_checkpoint(path, tmp_path / "tokenizer", sizes())
    assert not sign.exists()


def test_a_folder_of_diffusers_is_taken(theirs: StableDiffusionInstructPix2PixPipeline, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    editor = load_editor(EditorName("magicbrush", str(tmp_path)))
    assert editor.name == "magicbrush" and editor.settings.num_inference_steps == 100


def test_a_checkpoint_without_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "MagicBrush.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointFileError, match=r"found MagicBrush.ckpt; it should hold .* tokenizer/"):
        load_editor(EditorName("magicbrush", str(tmp_path)))
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(CheckpointFileError, match="no checkpoint of Lightning"):
        load_editor(EditorName("magicbrush", str(tmp_path)))


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    torch.save({"weights": torch.zeros(1), "note": np.float64(1)}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointFileError, match="holds no state_dict"):
        load_editor(EditorName("magicbrush", str(tmp_path)))
