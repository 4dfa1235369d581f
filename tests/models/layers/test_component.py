"""Components are saved and loaded unchanged."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import ModelMixin
from pydantic import ValidationError

from fireedit.models.layers.component import Component
from fireedit.models.model import FireEdit, preset
from fireedit.models.tati import TATI, TATIConfig
from fireedit.models.vlm import VLM

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


def test_diffusers_finds_the_class_by_its_module(components: dict[str, Component]) -> None:
    """diffusers loads a class of a pipeline only if its module knows the name ModelMixin."""
    for part in components.values():
        assert isinstance(part, ModelMixin)
        assert hasattr(__import__(type(part).__module__, fromlist=["ModelMixin"]), "ModelMixin")
