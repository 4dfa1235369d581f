"""The command line of the conversion: from published folders to an edit, and one sentence for every wrong file."""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fireedit.benchmarks.published_folders import save_groma_detector, save_ip_adapter
from fireedit.jobs.convert import main
from fireedit.jobs.training.published_parts import NEW_TABLES
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
    """Run a conversion that fails before it writes any part; return its sentence."""
    assert main(argv, PAPERLIKE) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and "loaded" not in err
    (sentence,) = re.findall(r"^convert: (.*)\n\Z", err, re.M)
    assert not (Path(argv[argv.index("--out") + 1]) / "vlm").exists()
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
    afresh = "the LoRA and the rows of new tokens begin afresh, .* on another LLM than"
    assert re.findall(rf"^warning: (\w+): .* with another LLM than|^warning: (\w+): {afresh}", err, re.M) == [
        (part, "") if part == "region_encoder" else ("", part) for part in warn
    ]
    report = json.loads(out.splitlines()[-1])  # DeepSpeed, once imported, warns on stdout
    assert report["parameters"] == sum(part["parameters"] for part in report["parts"].values())
    assert {part["unexpected"] == [] for part in report["parts"].values()} == {True}
    with_lora = "smartedit" in changed and "vlm" not in warn
    assert report["parts"]["vlm"]["partly"] == [f"{name} (2 of 36 rows fresh)" for name in NEW_TABLES if with_lora]
    assert bool({*NEW_TABLES} & {*report["parts"]["vlm"]["missing"]}) != with_lora
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


@pytest.mark.parametrize(
    "out", [".", "vicuna-7b-v1.5", "instruct-pix2pix", "instruct-pix2pix/unet", "dinov2-large/new"]
)
def test_the_folders_to_read_are_not_written(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    """Even where an input holds a model_index.json, as InstructPix2Pix's does."""
    (tmp_path / "link").symlink_to(published.root)
    before = sorted(published.root.rglob("*"))
    error = error_of(arguments(published, tmp_path / "link" / out), capsys)
    assert error.startswith(f"--out: found {tmp_path / 'link' / out}, which is, holds or lies in --")
    assert sorted(published.root.rglob("*")) == before


def test_a_pipeline_of_another_system_in_out_stays(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (index := tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    error = error_of(arguments(published, tmp_path), capsys)
    assert error == f"--out: found a StableDiffusionPipeline in {tmp_path}; write a folder that is new"
    assert index.exists()


def test_other_files_in_out_stay(published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert "holds thesis.tex, but no model_index.json" in error_of(arguments(published, tmp_path), capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_disk_without_room_is_named(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=60_000_000))
    error = error_of(arguments(published, tmp_path / "out"), capsys)
    assert re.match(rf"the disk of {tmp_path}/\S+ has 0.1 GB free, and the pipeline takes 0.2; make room, or ", error)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling or rope_theta: found .*'factor': 4.0"),
        ({"rope_theta": 1e6}, "rope_scaling or rope_theta: found .*1000000.0"),
        ({"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64}, "num_attention_heads: found 2, not 4"),
        ({"hidden_act": "gelu"}, "hidden_act: found gelu, not silu"),
    ],
)
def test_an_llm_that_computes_otherwise_is_refused(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: dict[str, object], found: str
) -> None:
    """lmsys/vicuna-7b-v1.5-16k has the tensors of a LLaMA, and positions of a quarter."""
    folder = shutil.copytree(published.root / "vicuna-7b-v1.5", tmp_path / "llm")
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if key != "rope_parameters"} | setting
    (folder / "config.json").write_text(json.dumps(config))
    error = error_of(arguments(published, tmp_path / "out", llm=folder), capsys)
    assert re.match(rf"vlm: {folder}/config.json: {found}.*; give an LLM without it", error)


def test_settings_of_no_llama_are_named(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(published.root / "vicuna-7b-v1.5", tmp_path / "llm")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 128, "num_attention_heads": 3}))
    error = error_of(arguments(published, tmp_path / "out", llm=folder), capsys)
    assert re.match(rf"{folder}/config.json holds no settings of a LLaMA \(.*hidden size .128.*\); download", error)


@pytest.mark.parametrize("wrong", ["short", "wide", "folder"])
def test_another_ip_adapter_is_told_which_one_fits(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    path = tmp_path / "models" / "ip-adapter_sdxl.bin"
    held = save_ip_adapter(path, PAPERLIKE)
    if wrong == "short":
        held["ip_adapter"] = {name: each for name, each in held["ip_adapter"].items() if name.startswith("1.")}
    else:
        held["ip_adapter"]["3.to_k_ip.weight"] = torch.zeros(32, 2048)
    torch.save(held, path)
    given = path.parent if wrong == "folder" else path
    error = error_of(arguments(published, tmp_path / "out", ip_adapter=given), capsys)
    found = {
        "short": "unet: .*: found no ip_adapter.3.to_k_ip.weight where Stable Diffusion 1.5 has one",
        "wide": r"unet: .*: found ip_adapter.3.to_k_ip.weight of shape \[32, 2048\] where Stable Diffusion 1.5 has one",
        "folder": f"--ip-adapter: {given} is a folder; give the file",
    }
    assert re.match(rf"{found[wrong]}.* h94/IP-Adapter's models/ip-adapter-plus_sd15.safetensors or .bin", error)


@pytest.mark.parametrize("option", ["llm", "instruct_pix2pix"])
def test_a_root_of_the_hubs_cache_is_told_what_to_give(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "models--a--b/snapshots/0f3e").mkdir(parents=True)
    error = error_of(arguments(published, tmp_path / "out", **{option: tmp_path / "models--a--b"}), capsys)
    assert error.startswith(f"{tmp_path}/models--a--b is the Hub's cache") and error.endswith("/snapshots/0f3e")


def test_an_adapter_config_of_another_kind_is_named(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(published.root / "SmartEdit-7B", tmp_path / "SmartEdit-7B")
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 16}))
    error = error_of(arguments(published, tmp_path / "out", smartedit=folder), capsys)
    assert error.startswith(f"{folder / 'adapter_config.json'} has no 'r'")


def test_an_llm_in_float32_stays_so_where_that_is_asked_for(published: Published, tmp_path: Path) -> None:
    argv = arguments(published, tmp_path / "out", llm=None)
    assert main([*argv, "--llm-precision", "saved"], PAPERLIKE) == 0
    found = load_file(tmp_path / "out/vlm/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert torch.equal(found["llm.lm_head.weight"], published.llm.lm_head.weight.float())


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_disk_that_fails_is_one_sentence(
    published: Published,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception],
) -> None:
    def fail(*_: object) -> None:
        raise kind("No space left on device")

    monkeypatch.setattr("fireedit.jobs.training.published.write_tensors", fail)
    assert error_of(arguments(published, tmp_path / "out"), capsys) == "No space left on device"
