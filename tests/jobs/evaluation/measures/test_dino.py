"""Embeddings of DINO are MagicBrush's, on a small model in the published layout."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from transformers import ViTModel

from fireedit.jobs.evaluation.measures.dino import DINOMeasure
from fireedit.jobs.evaluation.measures.openai_clip import cosine
from fireedit.models.checkpoint_files import CheckpointFileError
from fireedit.models.weights import WeightsError
from fireedit.platform.provenance import fingerprint
from tests.jobs.evaluation.measures.plain import cosine as plain_cosine
from tests.jobs.evaluation.measures.plain import pairs, view
from tests.jobs.evaluation.published_backbones import save_dino

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dino(tmp_path_factory.mktemp("dino"))


@torch.no_grad()
def test_dino_is_magicbrushs(folder: Path) -> None:
    measure, model = DINOMeasure(folder), ViTModel.from_pretrained(folder, layer_norm_eps=1e-6).eval()

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        last = model(pixels, output_hidden_states=True).hidden_states[-1][:, 0]
        return F.layer_norm(last, [32], model.layernorm.weight, model.layernorm.bias, 1e-6)

    outputs, references = zip(*pairs(), strict=True)
    plain = [[encode(view(image, 256, MEAN, STD)) for image in images] for images in (outputs, references)]
    embedded = measure.pictures(outputs), measure.pictures(references)
    torch.testing.assert_close(embedded[0], torch.cat(plain[0]), rtol=1e-5, atol=1e-5)
    expected = [plain_cosine(*pair) for pair in zip(*plain, strict=True)]
    assert cosine(*embedded).tolist() == pytest.approx(expected, abs=1e-6)
    assert min(expected) < 0.9, "the pictures should differ for the model"


def test_the_published_names_of_tensors_are_read(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert {"encoder.layer.0.attention.attention.query.weight", "pooler.dense.weight"} <= names


def test_a_checkpoint_without_pooler_is_enough(tmp_path: Path) -> None:
    measure = DINOMeasure(save_dino(tmp_path, pooler=False))
    assert measure.model.pooler is None and measure.model.config.layer_norm_eps == 1e-6


def test_the_measure_names_its_model_and_weights(folder: Path, tmp_path: Path) -> None:
    measure = DINOMeasure(folder)
    assert measure.name == "dino-vit32-16" and measure.weights == fingerprint(str(folder))
    small = DINOMeasure(save_dino(tmp_path, hidden_size=384, num_attention_heads=6, num_hidden_layers=1))
    assert small.name == "dino-vits16" and small.weights != measure.weights


def test_a_wrong_folder_says_what_to_write_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError, match=r"config.json is missing; write the files of facebook/dino-vits16"):
        DINOMeasure(tmp_path / "absent")
    save_dino(tmp_path, image_size=64)
    with pytest.raises(WeightsError, match="a ViT for pictures of 64 pixels, not 224; write the files of facebook"):
        DINOMeasure(tmp_path)
