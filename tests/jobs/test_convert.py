"""The command line of the conversion: from published folders to an edit, and one sentence for every wrong file."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fireedit.benchmarks.published_folders import save_groma_detector
from fireedit.jobs.convert import main
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.vision import Vision
from fireedit.platform import storage
from tests.factories import PAPERLIKE, picture
from tests.jobs.published_folders import Published, write

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 1342177280\n"
SWAPPED = {
    "dinov2": ("clip-vit-large-patch14", "vision", "found CLIP", "DINOv2", "facebook/dinov2-large"),
    "clip": ("dinov2-large", "vision", "found DINOv2", "CLIP", "openai/clip-vit-large-patch14"),
    "groma": ("vicuna-7b-v1.5", "region_encoder", "found LLaMA", "Groma", "groma-7b-pretrain"),
    "llm": ("dinov2-large", "vlm", "found DINOv2", "LLaMA", "lmsys/vicuna-7b-v1.5"),
    "detector": ("instruct-pix2pix/unet", "detector", "found Stable Diffusion's UNet", "Groma", "groma-det-pretrain"),
    "smartedit": (
        "SmartEdit-7B/unet-15000/adapter_model.bin",
        *("qformer", "found Stable Diffusion's UNet", "SmartEdit's Q-Former", "TencentARC/SmartEdit-7B"),
    ),
    "ip-adapter": (
        "instruct-pix2pix/vae/diffusion_pytorch_model.safetensors",
        *("unet", "found Stable Diffusion's VAE", "IP-Adapter", "h94/IP-Adapter"),
    ),
}
"""For each option the folder that is given instead, and words of the sentence."""


def arguments(published: Published, out: Path, **changed: Path | None) -> list[str]:
    paths = {**vars(published.paths()), **changed}
    return [word for name, path in paths.items() if path for word in (f"--{name.replace('_', '-')}", str(path))] + [
        *("--out", str(out))
    ]


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a conversion that fails; return its sentence."""
    assert main(argv, PAPERLIKE) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    (sentence,) = re.findall(r"^convert: (.*)\n\Z", err, re.M)
    assert not Path(argv[argv.index("--out") + 1]).exists()
    return sentence


PAIRINGS = {
    "groma-7b-pretrain with Vicuna": ({}, []),
    "groma-7b-finetune with its own LLM": ({"groma": "groma-7b-finetune", "llm": None}, []),
    "Vicuna and SmartEdit": ({"smartedit": "SmartEdit-7B"}, ["vlm"]),
    "groma-7b-finetune's LLM with pretrain's region encoder": ({"llm": "groma-7b-finetune"}, ["region_encoder"]),
    "LLaVA-1.1 and SmartEdit": ({"llm": "LLaVA-7B-v1", "smartedit": "SmartEdit-7B"}, ["region_encoder"]),
    "LLaVA-1.5 and SmartEdit": (
        {"llm": "llava-v1.5-7b", "smartedit": "SmartEdit-7B"},
        ["region_encoder", "vlm"],
    ),
}
"""For each pairing its folders and the parts that warn."""


@pytest.mark.parametrize("name", PAIRINGS)
def test_published_folders_become_an_edit(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folders, warn = PAIRINGS[name]
    changed = {option: folder and published.root / folder for option, folder in folders.items()}
    assert main(arguments(published, tmp_path / "out", **changed), PAPERLIKE) == 0
    out, err = capsys.readouterr()
    assert re.findall(
        r"^warning: (\w+): .* with another LLM than|^warning: (\w+): .* on another LLM than", err, re.M
    ) == [(part, "") if part == "region_encoder" else ("", part) for part in warn]
    report = json.loads(out.splitlines()[-1])  # DeepSpeed, once imported, warns on stdout
    assert report["parameters"] == sum(part["parameters"] for part in report["parts"].values())
    assert {part["unexpected"] == [] for part in report["parts"].values()} == {True}
    pipeline = FireEditPipeline.from_pretrained(report["out"])
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("make it red", picture(1), num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 60, 80, 3) and np.isfinite(image).all() and image.std() > 0.01


def test_each_part_is_reported(published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A published file may have tensors that nobody knows; those known to be of no use are left out in silence."""
    groma = shutil.copytree(published.root / "groma-7b-pretrain", tmp_path / "groma")
    index = groma / "pytorch_model.bin.index.json"
    places = json.loads(index.read_text())
    write(groma / "pytorch_model-00009.bin", {"surprise.weight": torch.zeros(1)})
    index.write_text(json.dumps({"weight_map": places["weight_map"] | {"surprise.weight": "pytorch_model-00009.bin"}}))
    assert main(arguments(published, tmp_path / "out", groma=groma), PAPERLIKE) == 0
    out, err = capsys.readouterr()
    parts = json.loads(out.splitlines()[-1])["parts"]
    assert parts["region_encoder"]["unexpected"] == ["surprise.weight"] and parts["vlm"]["unexpected"] == []
    assert parts["vision"]["loaded"] == len(published.dinov2.state_dict()) + len(
        published.clip.vision_model.state_dict()
    )
    lora = "llm.model.layers.*.self_attn.q_proj.lora_A.default.weight"
    assert {"new_embeddings.weight", "new_head.weight", lora} < {*parts["vlm"]["missing"]}
    assert parts["qformer"]["loaded"] == 0 and "query_tokens" in parts["qformer"]["missing"]
    assert re.search(rf"region_encoder.*none missing, unexpected: surprise.weight; from {groma}", err)
    assert re.search(r"^tati .*: all begun afresh$", err, re.M) and "extra_lm_head" not in err


@pytest.mark.parametrize("missing", ["groma", "llm", "dinov2", "clip", "instruct_pix2pix", "smartedit"])
def test_missing_folder_is_named(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    error = error_of(arguments(published, tmp_path / "out", **{missing: tmp_path / "nowhere"}), capsys)
    assert error == f"--{missing.replace('_', '-')}: {tmp_path / 'nowhere'} is missing"


@pytest.mark.parametrize("option", SWAPPED)
def test_swapped_file_is_named(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    name, part, found, wanted, give = SWAPPED[option]
    given = published.root / name
    error = error_of(arguments(published, tmp_path / "out", **{option.replace("-", "_"): given}), capsys)
    assert re.match(rf"{part}: --{option} {given}: {found}.*, not {wanted}.*; give it .*{give}", error)


def test_gromas_detector_alone_is_told_where_to_go(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "groma-det-pretrain"
    save_groma_detector(folder, published.groma["detector"], published.dinov2)
    error = error_of(arguments(published, tmp_path / "out", groma=folder), capsys)
    assert error.startswith(f"region_encoder: --groma {folder}: found Groma's detector (")
    assert "groma-det-pretrain goes to --detector" in error


def test_a_bucket_gets_the_folder_or_nothing(
    published: Published, s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = storage.join(s3, "published")
    argv = arguments(published, tmp_path / "out")
    argv[argv.index("--out") + 1] = out
    wrong = [*argv, "--detector", str(published.root / "clip-vit-large-patch14")]
    assert main(wrong, PAPERLIKE) == 1 and storage.names(out) == []
    assert main(argv, PAPERLIKE) == 0
    assert {"model_index.json", "vlm", "vlm_tokenizer", "scheduler"} < {*storage.names(out)}
    with storage.reading_folder(storage.join(out, "vision")) as folder:
        assert Vision.from_pretrained(folder).config.groma_compat


def damaged(folder: Path, pattern: str, how: str) -> Path:
    """Damage the first file of a folder that a pattern finds."""
    path = min(folder.glob(pattern))
    if how == "pointer":
        path.write_text(POINTER)
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("option", "name", "pattern", "how", "said"),
    [
        ("groma", "groma-7b-pretrain", "pytorch_model-00002*.bin", "pointer", "run `git lfs pull` in its folder"),
        ("groma", "groma-7b-pretrain", "pytorch_model-00001*.bin", "cut", "download it again"),
        ("groma", "groma-7b-pretrain", "pytorch_model-00002*.bin", "gone", "download it again"),
        ("llm", "vicuna-7b-v1.5", "*-00001*.bin", "cut", "download it again"),
        ("llm", "vicuna-7b-v1.5", "*-00002*.bin", "gone", "download it again"),
        ("llm", "vicuna-7b-v1.5", "tokenizer.model", "cut", "download it again"),
        ("smartedit", "SmartEdit-7B", "embeddings_qformer/*.bin", "gone", "download it again"),
        ("smartedit", "SmartEdit-7B", "LLM-15000/*.bin", "cut", "download it again"),
        ("smartedit", "SmartEdit-7B", "adapter_config.json", "gone", "download it again"),
        ("instruct_pix2pix", "instruct-pix2pix", "vae/*.safetensors", "cut", "download it again"),
    ],
)
def test_damaged_file_is_named(
    published: Published,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    name: str,
    pattern: str,
    how: str,
    said: str,
) -> None:
    folder = shutil.copytree(published.root / name, tmp_path / name)
    path = damaged(folder, pattern, how)
    error = error_of(arguments(published, tmp_path / "out", **{option: folder}), capsys)
    assert error.startswith(str(path)) and said in error


def test_tensors_of_other_sizes_are_named(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(published.root / "dinov2-large", tmp_path / "dinov2")
    state = load_file(folder / "model.safetensors")
    state |= {"layernorm.weight": torch.zeros(7), "embeddings.register_tokens": torch.zeros(4)}
    del state["layernorm.bias"]
    write(folder / "model.safetensors", state)
    error = error_of(arguments(published, tmp_path / "out", dinov2=folder), capsys)
    assert error.startswith("vision: found no dino.layernorm.bias, an unknown dino.embeddings.register_tokens, ")
    assert re.search(r"dino.layernorm.weight of shape \[7\] in place of \[64\] .*; give facebook/dinov2-large", error)


@pytest.mark.parametrize(("name", "package"), [("llava-v1.5-7b", "llava"), ("vicuna-7b-v1.5", "fastchat")])
def test_unmerged_delta_is_refused(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, package: str
) -> None:
    folder = shutil.copytree(published.root / name, tmp_path / "LLaVA-Lightning-7B-delta-v1-1")
    for path in folder.glob("*.bin"):
        state = torch.load(path)
        torch.save({name: tensor - 1 if "norm" in name else tensor for name, tensor in state.items()}, path)
    error = error_of(arguments(published, tmp_path / "out", llm=folder), capsys)
    assert error.startswith(f"vlm: --llm {folder}: found a delta") and f"{package}.model.apply_delta" in error
