"""Encoders are loaded whole; what is missing or wrong is named."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import ViTConfig, ViTModel

from fireedit.jobs.evaluation.measures.frozen import load_frozen
from fireedit.models.checkpoint_files import CheckpointFileError
from fireedit.models.weights import WeightsError

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 32}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ViTModel(ViTConfig(**SIZES)).half().save_pretrained(tmp_path)
    return tmp_path


def test_weights_are_float32_and_frozen(folder: Path) -> None:
    model = load_frozen(ViTModel, folder, "vit", "owner/name")
    assert not model.training
    assert all(each.dtype == torch.float32 and not each.requires_grad for each in model.parameters())


def test_weights_published_as_a_pickle_are_read(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    model = load_frozen(ViTModel, folder, "vit", "owner/name")
    assert torch.equal(model.embeddings.cls_token, tensors["embeddings.cls_token"].float())


def test_missing_tensors_are_not_drawn(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    del tensors["layernorm.weight"]
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="lacks 1 tensors, such as layernorm.weight; write the files of owner/name"):
        load_frozen(ViTModel, folder, "vit", "owner/name")


def test_tensors_of_other_sizes_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"hidden_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="the tensors do not fit config.json .* write the files of owner/name"):
        load_frozen(ViTModel, folder, "vit", "owner/name")


def test_missing_and_false_files_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointFileError, match="is a Git LFS pointer"):
        load_frozen(ViTModel, folder, "vit", "owner/name")
    weights.unlink()
    with pytest.raises(CheckpointFileError, match="found no weights"):
        load_frozen(ViTModel, folder, "vit", "owner/name")
    with pytest.raises(WeightsError, match="holds a model of type 'vit', not 'clip'"):
        weights.touch()
        safetensors.torch.save_file({"x": torch.zeros(1)}, weights)
        load_frozen(ViTModel, folder, "clip", "owner/name")
