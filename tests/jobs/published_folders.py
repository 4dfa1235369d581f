"""Tiny checkpoints under the names and in the layouts of the published ones."""

import json
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from fireedit.models.pipeline import FireEditPipeline


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
    """Lay out every folder as published: Groma in shards, the VAE as a pickle with old names, LLaVA's added rows."""
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

    llm = llm_tensors(pipeline)
    for table in ("model.embed_tokens.weight", "lm_head.weight"):
        llm[table] = torch.cat([llm[table], torch.full((3, 192), 9.0)])
    llm["model.mm_projector.weight"] = torch.zeros(192, 96)
    write(root / "llm" / "pytorch_model.bin", llm)
    pipeline.vlm_tokenizer.save_pretrained(root / "llm")
    (root / "llm" / "config.json").write_text(json.dumps({"rms_norm_eps": 2e-5}))

    unet = {name: tensor for name, tensor in pipeline.unet.state_dict().items() if ".image_attention." not in name}
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


def llm_tensors(pipeline: FireEditPipeline) -> dict[str, Tensor]:
    llm = below("llm.", pipeline.vlm.state_dict())
    return {name.replace(".base_layer.", "."): tensor for name, tensor in llm.items() if ".lora_" not in name}


def publish_groma(pipeline: FireEditPipeline, folder: Path) -> None:
    detector = {}
    for name, tensor in pipeline.detector.state_dict().items():
        name = re.sub(r"\.mlp\.(fc[12])\.", r".\1.", name)
        name = name.replace(".self_attn.o_proj.", ".self_attn.out_proj.")
        root = "" if name.startswith("input_proj.") else "ddetr_transformer."
        detector[f"perceiver.{root}{name}"] = tensor
    others = prefixed("region_encoder.", pipeline.region_encoder.state_dict())
    others |= prefixed("img_txt_bridge.", pipeline.vlm.adapter.state_dict())
    others |= prefixed("llm.", {name: tensor.bfloat16() for name, tensor in llm_tensors(pipeline).items()})
    others["extra_lm_head.weight"] = torch.zeros(114, 192)
    shards = {"model-00001-of-00002.safetensors": detector, "model-00002-of-00002.safetensors": others}
    for name, state in shards.items():
        write(folder / name, state)
    weight_map = {name: shard for shard, state in shards.items() for name in state}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
