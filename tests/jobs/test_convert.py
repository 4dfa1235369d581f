"""Published files, at nano size and under their published names, become a pipeline that edits."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from fireedit.jobs.convert import ConvertError, main, read_tensors
from fireedit.models.pipeline import FireEditPipeline
from tests.factories import picture, shaken

FOLDERS = ("groma", "llm", "dinov2", "clip", "instruct-pix2pix")


@pytest.fixture(scope="module")
def trained() -> FireEditPipeline:
    """What the published checkpoints hold."""
    pipeline = FireEditPipeline.fresh_nano(seed=11)
    shaken(pipeline.vlm)
    return pipeline


@pytest.fixture(scope="module")
def folders(trained: FireEditPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    publish(trained, root)
    return root


@pytest.fixture(scope="module")
def converted(folders: Path) -> FireEditPipeline:
    assert main([*arguments(folders), "--smartedit", str(folders / "qformer.bin")]) == 0
    pipeline = FireEditPipeline.from_pretrained(folders / "out")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def arguments(root: Path, **changed: str) -> list[str]:
    paths = {name: str(root / name) for name in (*FOLDERS, "out")} | changed
    return [word for name, path in paths.items() for word in (f"--{name}", path)] + ["--config", "nano"]


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def write(path: Path, state: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.clone() for name, tensor in state.items()}
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)


def publish(pipeline: FireEditPipeline, root: Path) -> None:
    """Every folder as its makers lay it out: Groma in shards, the VAE as a pickle with old names, LLaVA's own rows."""
    publish_groma(pipeline, root / "groma")
    vision = pipeline.vision.state_dict()
    names = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    dino = {
        re.sub(r"\.attention\.([qkvo]_proj)\.", lambda m: f".attention.{names[m[1]]}.", name): tensor
        for name, tensor in below("dino.", vision).items()
    }
    write(root / "dinov2" / "model.safetensors", dino)

    clip = prefixed("vision_model.", below("clip.", vision))
    clip |= prefixed("text_model.", pipeline.text_encoder.state_dict())
    clip |= {"logit_scale": torch.ones(()), "text_model.embeddings.position_ids": torch.arange(77)[None]}
    write(root / "clip" / "pytorch_model.bin", clip)
    pipeline.tokenizer.save_pretrained(root / "clip")

    llm = below("llm.", pipeline.vlm.state_dict())
    llm = {name.replace(".base_layer.", "."): tensor for name, tensor in llm.items() if ".lora_" not in name}
    for table in ("model.embed_tokens.weight", "lm_head.weight"):
        llm[table] = torch.cat([llm[table], torch.full((3, 192), 9.0)])
    llm["model.mm_projector.weight"] = torch.zeros(192, 96)
    write(root / "llm" / "pytorch_model.bin", llm)
    pipeline.vlm_tokenizer.save_pretrained(root / "llm")
    (root / "llm" / "config.json").write_text(json.dumps({"rms_norm_eps": 2e-5}))

    unet = {name: tensor for name, tensor in pipeline.unet.state_dict().items() if "_ip." not in name}
    write(root / "instruct-pix2pix" / "unet" / "diffusion_pytorch_model.safetensors", unet)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = {
        re.sub(r"(attentions\.0)\.(to_[qkv]|to_out\.0)\.", lambda m: f"{m[1]}.{old[m[2]]}.", name): tensor
        for name, tensor in pipeline.vae.state_dict().items()
    }
    write(root / "instruct-pix2pix" / "vae" / "diffusion_pytorch_model.bin", vae)

    qformer = {
        f"sd_qformer.{name}".replace("attention.attention.", "attention.self.").replace(
            "sd_qformer.layernorm.", "sd_qformer.embeddings.LayerNorm."
        ): tensor
        for name, tensor in below("blip2.", pipeline.qformer.state_dict()).items()
    }
    rows = torch.arange(35.0)[:, None].expand(35, 192)
    head = torch.cat([pipeline.vlm.llm.lm_head.weight.detach(), rows])
    extras = {"sd_query_tokens": pipeline.qformer.query_tokens.detach(), "lm_head.weight": head}
    write(root / "qformer.bin", {**qformer, **extras})


def publish_groma(pipeline: FireEditPipeline, folder: Path) -> None:
    detector = {}
    for name, tensor in pipeline.detector.state_dict().items():
        name = re.sub(r"\.mlp\.(fc[12])\.", r".\1.", name)
        name = name.replace(".self_attn.o_proj.", ".self_attn.out_proj.")
        root = "" if name.startswith("input_proj.") else "ddetr_transformer."
        detector[f"perceiver.{root}{name}"] = tensor
    others = prefixed("region_encoder.", pipeline.region_encoder.state_dict())
    others |= prefixed("img_txt_bridge.", pipeline.vlm.adapter.state_dict())
    others["extra_lm_head.weight"] = torch.zeros(114, 192)
    shards = {"model-00001-of-00002.safetensors": detector, "model-00002-of-00002.safetensors": others}
    for name, state in shards.items():
        write(folder / name, state)
    weight_map = {name: shard for shard, state in shards.items() for name in state}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_every_published_tensor_arrives(trained: FireEditPipeline, converted: FireEditPipeline) -> None:
    for part in ("vision", "detector", "region_encoder", "unet", "vae", "text_encoder", "qformer"):
        before, after = getattr(trained, part).state_dict(), getattr(converted, part).state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()), part
    before, after = trained.vlm.state_dict(), converted.vlm.state_dict()
    published = {name for name in before if ".lora_" not in name and not name.startswith("new_")}
    assert all(torch.equal(before[name], after[name]) for name in published)


def test_new_rows_are_smartedits_or_the_mean_of_the_old(converted: FireEditPipeline) -> None:
    vlm = converted.vlm
    mean = vlm.llm.model.embed_tokens.weight.mean(dim=0)
    assert torch.allclose(vlm.new_embeddings.weight, mean.expand(36, -1), atol=1e-6)
    tokens = vlm.prompt_config.new_tokens
    heads = {token: row for token, row in zip(tokens, vlm.new_head.weight, strict=True)}
    assert heads["<im_start>"].eq(1).all() and heads["<img_0>"].eq(3).all() and heads["<img_31>"].eq(34).all()
    assert torch.allclose(heads["<roi>"], vlm.llm.lm_head.weight.mean(dim=0), atol=1e-6)


def test_lora_and_tati_start_as_no_ops(converted: FireEditPipeline) -> None:
    lora = {name: p for name, p in converted.vlm.named_parameters() if ".lora_" in name}
    assert all((p == 0).all() == (".lora_B." in name) for name, p in lora.items())
    assert converted.tati.token_out.weight.abs().max() == 0


def test_settings_come_from_the_published_files(converted: FireEditPipeline) -> None:
    assert converted.region_encoder.config.groma_compat
    assert converted.vlm.llm.config.rms_norm_eps == converted.vlm.config.norm_eps == 2e-5


def test_the_result_edits(converted: FireEditPipeline) -> None:
    image = converted("make it red", picture(1), num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 60, 80, 3) and np.isfinite(image).all()


def test_tokens_that_others_added_behind_the_vocabulary_are_plain_text(folders: Path, tmp_path: Path) -> None:
    """LLaVA and Groma give `<image>` an id that is one of our own tokens'."""
    llm = tmp_path / "llm"
    llm.mkdir()
    for path in (folders / "llm").iterdir():
        (llm / path.name).write_bytes(path.read_bytes())
    theirs = FireEditPipeline.fresh_nano().vlm_tokenizer
    theirs.add_tokens([f"<filler_{index}>" for index in range(1024 - len(theirs))])
    theirs.add_tokens(["<image>"])
    theirs.save_pretrained(llm)
    assert main(arguments(folders, llm=str(llm), out=str(tmp_path / "out"))) == 0
    words = FireEditPipeline.from_pretrained(tmp_path / "out", parts=["vlm_tokenizer"]).vlm_tokenizer
    assert max(theirs("<image>").input_ids) == 1024 and max(words("<image>").input_ids) < 1024
    assert words("make it red").input_ids == theirs("make it red").input_ids and words.eos_token == "</s>"


def test_without_smartedit_the_qformer_is_fresh_and_the_report_is_one_line(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folders, out=str(tmp_path / "out"))) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["out"] == str(tmp_path / "out") and report["parameters"] == sum(report["parts"].values())
    assert "fresh weights: qformer, tati, hvca, LoRA" in err and f"from {folders / 'groma'}" in err
    loaded = FireEditPipeline.from_pretrained(tmp_path / "out")
    assert float(loaded.qformer.query_tokens.detach().std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("missing", FOLDERS)
def test_a_missing_folder_is_named(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    assert main(arguments(folders, **{missing: str(tmp_path / "nowhere"), "out": str(tmp_path / "out")})) == 1
    assert f"convert: --{missing}: {tmp_path / 'nowhere'} is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_shard_is_named(folders: Path, tmp_path: Path) -> None:
    index = folders / "groma" / "model.safetensors.index.json"
    (tmp_path / index.name).write_text(index.read_text())
    with pytest.raises(ConvertError, match="model-00001-of-00002.safetensors is missing"):
        read_tensors(tmp_path)


def test_a_folder_without_weights_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="no weights lie here; it should hold one of model.safetensors"):
        read_tensors(tmp_path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": Path("x").exists}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match="Weights only load failed"):
        read_tensors(tmp_path)


def test_files_of_other_sizes_are_told_tensor_by_tensor(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "dinov2" / "model.safetensors", {"layernorm.weight": torch.zeros(7)})
    assert main(arguments(folders, dinov2=str(tmp_path / "dinov2"), out=str(tmp_path / "out"))) == 1
    assert "dino.layernorm.weight [7] where [96] belongs" in capsys.readouterr().err
