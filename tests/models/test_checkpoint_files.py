"""Checkpoint files that are not what their names say are refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fireedit.models.checkpoint_files import (
    CheckpointFileError,
    check_file,
    read_tensors,
    read_tokenizer,
    write_tensors,
)
from fireedit.models.model import NANO
from fireedit.models.pipeline import FireEditPipeline

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1342177280\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>model.safetensors</title></head></html>"
TENSORS = safetensors.torch.save({"weight": torch.arange(6.0)})


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.model"])
@pytest.mark.parametrize(
    ("content", "advice"), [(POINTER, "git lfs pull"), (PAGE, "web page"), (b"", "is empty"), (None, "is missing")]
)
def test_stand_in_for_a_file_is_named(tmp_path: Path, name: str, content: bytes | None, advice: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointFileError, match=advice) as caught:
        check_file(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", TENSORS[:-4]),
        ("model.safetensors", b"an error message of a server"),
        ("pytorch_model.bin", b"an error message of a server"),
        ("pytorch_model.bin", b"PK\x03\x04 cut"),
        ("model.safetensors.index.json", b'{"weight_map": '),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointFileError, match=name):
        read_tensors(tmp_path)


def test_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(TENSORS)
    assert read_tensors(tmp_path)["weight"].tolist() == list(range(6))
    assert read_tensors(tmp_path / "model.safetensors").keys() == {"weight"}


def test_missing_shard_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointFileError, match="model-00001-of-00002.safetensors"):
        read_tensors(tmp_path)


def test_half_precision_is_read_where_there_is_no_other(tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").write_bytes(TENSORS)
    assert read_tensors(tmp_path)["weight"].tolist() == list(range(6))
    torch.save({"whole": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.bin")
    assert read_tensors(tmp_path).keys() == {"whole"}


@pytest.mark.parametrize(("held", "found"), [({"metadata": {}}, "has no 'weight_map'"), ([], "holds a list")])
def test_index_of_another_kind_is_named(tmp_path: Path, held: object, found: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(held))
    with pytest.raises(CheckpointFileError, match=f"model.safetensors.index.json {found}"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("shard_bytes", [100, 15])
def test_written_tensors_are_read_back_in_their_precision(tmp_path: Path, shard_bytes: int) -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.arange(6), "c": torch.arange(4.0).half()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()} | {"a": torch.bfloat16}
    given = dict(tensors)
    write_tensors(given, tmp_path, "model", dtypes, shard_bytes)
    found = read_tensors(tmp_path)
    assert found.keys() == tensors.keys() and not given
    assert all(torch.equal(found[name], tensor.to(dtypes[name])) for name, tensor in tensors.items())
    assert len([*tmp_path.glob("*.safetensors")]) == (1 if shard_bytes == 100 else 3)


def test_folder_without_weights_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError, match="model.safetensors"):
        read_tensors(tmp_path)


def test_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": Path("x").exists}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointFileError, match="Weights only load failed"):
        read_tensors(tmp_path)


def test_pickle_of_dicts_has_the_names_of_its_safetensors(tmp_path: Path) -> None:
    """IP-Adapter's are dicts of dicts."""
    held = {"image_proj": {"latents": torch.zeros(1)}, "ip_adapter": {"1.to_k_ip.weight": torch.ones(2)}}
    torch.save(held, tmp_path / "ip-adapter.bin")
    found = read_tensors(tmp_path / "ip-adapter.bin")
    assert found.keys() == {"image_proj.latents", "ip_adapter.1.to_k_ip.weight"}
    assert found["ip_adapter.1.to_k_ip.weight"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("held", "found"), [({"a": {"step": 3}}, "'a.step' is a int"), ([torch.zeros(1)], "is a list")]
)
def test_pickle_of_more_than_tensors_is_refused(tmp_path: Path, held: object, found: str) -> None:
    torch.save(held, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointFileError, match=rf"pytorch_model.bin is not a file of tensors alone \(.*{found}\)"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_adapter_of_peft_is_found_in_its_folder(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"adapter_model.{kind}"
    if kind == "bin":
        torch.save({"weight": torch.arange(6.0)}, path)
    else:
        path.write_bytes(TENSORS)
    assert read_tensors(tmp_path)["weight"].tolist() == list(range(6))
    path.unlink()
    with pytest.raises(CheckpointFileError, match=f"{path} is missing; download it again"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("content", [POINTER, PAGE, b"{}"])
def test_damaged_tokenizer_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointFileError, match=name):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("path", ["unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"])
def test_pipeline_with_a_pointer_among_its_files_names_it(tmp_path: Path, path: str) -> None:
    folder = shutil.copytree(NANO, tmp_path / "nano")
    (folder / path).write_bytes(POINTER)
    with pytest.raises(CheckpointFileError, match=path):
        FireEditPipeline.from_pretrained(folder)
    FireEditPipeline.from_pretrained(folder, parts=FireEditPipeline.PERCEIVING)
