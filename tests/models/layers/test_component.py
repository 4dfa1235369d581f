"""Components are saved and loaded unchanged."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import ModelMixin
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from fireedit.models.layers.component import Component
from fireedit.models.model import FireEdit, preset
from fireedit.models.tati import TATI, TATIConfig
from fireedit.models.vlm import VLM
from fireedit.models.weights import WeightsError
from tests.factories import files_of

NANO = preset("nano")


@pytest.fixture(scope="module")
def components() -> dict[str, Component]:
    torch.manual_seed(0)
    parts = FireEdit.from_config(NANO).named_children()
    return {name: part for name, part in parts if isinstance(part, Component)}


NAMES = ("vision", "detector", "region_encoder", "vlm", "qformer", "tati", "hvca")


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_and_every_size_is_saved(components: dict[str, Component], name: str, tmp_path: Path) -> None:
    part = components[name]
    part.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded = type(part).from_pretrained(tmp_path)
    before, after = part.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert all(not tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    buffers = dict(part.named_buffers())
    assert all(torch.equal(buffers[key], tensor) for key, tensor in loaded.named_buffers())


@pytest.mark.parametrize("name", NAMES)
def test_its_config_json_is_its_config(components: dict[str, Component], name: str, tmp_path: Path) -> None:
    components[name].save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written.pop("_class_name") == type(components[name]).__name__
    fields = {key: value for key, value in written.items() if not key.startswith("_")}
    assert fields == json.loads(json.dumps(asdict(getattr(NANO, name))))


def test_nested_settings_are_loaded_unchanged(components: dict[str, Component], tmp_path: Path) -> None:
    vlm = components["vlm"]
    vlm.save_pretrained(tmp_path)
    assert VLM.from_pretrained(tmp_path).prompt_config == NANO.vlm.prompt


def test_a_wrong_size_in_config_json_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        TATI.from_config({**asdict(TATIConfig()), "depth": "many"})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a VLM in bfloat16 with a LoRA in float32, as a stage saves it."""
    vlm, folder = VLM(NANO.vlm), tmp_path_factory.mktemp("mixed")
    for name, parameter in vlm.named_parameters():
        if ".lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    vlm.save_pretrained(folder)
    return folder


def test_each_tensor_keeps_the_precision_it_is_saved_in(mixed: Path, tmp_path: Path) -> None:
    loaded = VLM.from_pretrained(mixed, dtype="auto")
    assert not loaded.training and not any(tensor.is_meta for tensor in loaded.buffers())
    state = loaded.state_dict()
    for name, tensor in state.items():
        assert tensor.dtype == (torch.float32 if ".lora_" in name else torch.bfloat16), name
    loaded.save_pretrained(tmp_path)
    again = VLM.from_pretrained(tmp_path, dtype="auto").state_dict()
    assert all(torch.equal(state[name], again[name]) and state[name].dtype == again[name].dtype for name in state)


def test_tensors_are_mapped_from_the_file_that_writing_to_them_does_not_change(mixed: Path) -> None:
    file = mixed / "diffusion_pytorch_model.safetensors"
    saved, first, second = file.read_bytes(), *(VLM.from_pretrained(mixed, dtype="auto") for _ in range(2))
    assert {*files_of(first.state_dict()).values()} == {str(file)}
    with torch.no_grad():
        first.new_head.weight += 1
    assert file.read_bytes() == saved and not torch.equal(first.new_head.weight, second.new_head.weight)


def test_only_tensors_of_another_precision_are_copied(mixed: Path) -> None:
    vlm = VLM.from_pretrained(mixed, dtype=torch.bfloat16)
    for name, file in files_of(vlm.state_dict()).items():
        assert (file == "") == (".lora_" in name), name


def test_options_that_change_the_precision_are_refused_beside_auto(mixed: Path) -> None:
    with pytest.raises(ValueError, match="found variant beside dtype='auto'; write dtype=torch.float32"):
        VLM.from_pretrained(mixed, dtype="auto", variant="fp16")


def test_a_tensor_of_no_use_is_refused_where_tensors_are_loaded_as_saved(mixed: Path, tmp_path: Path) -> None:
    tensors = load_file(mixed / "diffusion_pytorch_model.safetensors")
    save_file(tensors | {"extra": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((mixed / "config.json").read_text())
    with pytest.raises(WeightsError, match="VLM: found an unknown extra; give it the tensors of"):
        VLM.from_pretrained(tmp_path, dtype="auto")


def test_diffusers_finds_the_class_by_its_module(components: dict[str, Component]) -> None:
    """diffusers loads a class of a pipeline only if its module knows the name ModelMixin."""
    for part in components.values():
        assert isinstance(part, ModelMixin)
        assert hasattr(__import__(type(part).__module__, fromlist=["ModelMixin"]), "ModelMixin")
