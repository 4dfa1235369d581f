"""Make a pipeline of published checkpoints, for `jobs/train.py --config paper init_from=OUT` to start from.

python jobs/convert.py --groma DIR --llm DIR --dinov2 DIR --clip DIR --instruct-pix2pix DIR --out DIR
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import json
import math
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import init_empty_weights
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fireedit.models import weights
from fireedit.models.hvca import HVCA
from fireedit.models.model import FireEdit, FireEditConfig, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.qformer import QFormer
from fireedit.models.schedule import sampler
from fireedit.models.tati import TATI
from fireedit.models.vlm import VLM
from fireedit.platform import storage

STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
"""What published weights are called, in the order in which they are looked for."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


class ConvertError(Exception):
    """A published file is missing."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Where the published checkpoints lie; folders as their makers publish them."""

    groma: Path
    """FoundationVision/groma-7b-finetune: proposer, region encoder, adapter."""
    llm: Path
    """A LLaMA-7B: lmsys/vicuna-7b-v1.5, liuhaotian/llava-v1.5-7b, llava-hf/llava-1.5-7b-hf, or Groma's own."""
    dinov2: Path
    """facebook/dinov2-large."""
    clip: Path
    """openai/clip-vit-large-patch14: both encoders and the tokenizer."""
    instruct_pix2pix: Path
    """timbrooks/instruct-pix2pix: UNet and VAE. Stable Diffusion 1.5 in the same layout will do."""
    smartedit: Path | None = None
    """Of TencentARC/SmartEdit-7B: embeddings_qformer/checkpoint-15000_embeddings_qformer.bin."""
    ip_adapter: Path | None = None
    """Of h94/IP-Adapter: models/ip-adapter-plus_sd15.safetensors; the image attention is then no no-op at first."""


def main(argv: Sequence[str] | None = None) -> int:
    asked = vars(_parser().parse_args(argv))
    out, sizes, seed = (asked.pop(name) for name in ("out", "config", "seed"))
    started = time.monotonic()
    try:
        pipeline = convert(Published(**asked), preset(sizes), seed, say)
    except (ConvertError, weights.WeightsError) as error:
        print(f"convert: {error}", file=sys.stderr)
        return 1
    say(f"writing {out}")
    with storage.writing_folder(out, last="model_index.json") as folder:
        pipeline.save_pretrained(folder)
    counts = {name: _count(part) for name, part in pipeline.model.named_children()}
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"out": out, "parameters": sum(counts.values()), "parts": counts, "seconds": seconds}))
    return 0


def convert(
    published: Published, config: FireEditConfig, seed: int = 0, say: Callable[[str], None] = lambda line: None
) -> FireEditPipeline:
    """A pipeline of published weights, each in the precision that it was published in; the rest is fresh.

    Raises:
        ConvertError: a file is missing.
        WeightsError: a file's tensors do not fit.
    """
    _check_there(published)
    config = replace(
        config,
        region_encoder=replace(config.region_encoder, groma_compat=True),
        vlm=replace(config.vlm, norm_eps=_norm_eps(published.llm)),
    )
    with init_empty_weights():
        model = FireEdit.from_config(config)

    def fill(name: str, state: Mapping[str, Tensor], source: Path | str) -> None:
        weights.load_strict(getattr(model, name), state, source=str(source))
        say(f"{name:15s} {_count(getattr(model, name)):>13,} parameters from {source}")

    groma = read_tensors(published.groma)
    fill("detector", weights.groma_detector(groma), published.groma)
    fill("region_encoder", weights.groma_region_encoder(groma), published.groma)

    clip = read_tensors(published.clip)
    dino = weights.dinov2(read_tensors(published.dinov2))
    fill("vision", {**dino, **weights.clip_vision(clip)}, f"{published.dinov2} and {published.clip}")
    fill("text_encoder", weights.clip_text(clip), published.clip)

    painter = published.instruct_pix2pix
    ip_adapter = read_tensors(published.ip_adapter) if published.ip_adapter else None
    fill("unet", weights.stable_diffusion_unet(read_tensors(painter / "unet"), ip_adapter), painter)
    fill("vae", weights.stable_diffusion_vae(read_tensors(painter / "vae")), painter)

    smartedit = read_tensors(published.smartedit) if published.smartedit else {}
    llm = weights.language_model(read_tensors(published.llm), config.vlm.vocab_size, config.vlm.lora_targets)
    torch.manual_seed(seed)
    fresh = {**_fresh_lora(model.vlm), **_new_tables(llm, smartedit, config)}
    fill("vlm", {**llm, **weights.groma_adapter(groma), **fresh}, f"{published.llm} and {published.groma}")

    model.qformer, model.tati, model.hvca = QFormer(config.qformer), TATI(config.tati), HVCA(config.hvca)
    if smartedit:
        fill("qformer", weights.smartedit_qformer(smartedit), str(published.smartedit))
    say(f"fresh weights: {'' if smartedit else 'qformer, '}tati, hvca, LoRA")
    parts: dict[str, Any] = dict(model.eval().named_children())
    return FireEditPipeline(
        vlm_tokenizer=_own_tokens(AutoTokenizer.from_pretrained(published.llm), config.vlm.vocab_size),
        tokenizer=AutoTokenizer.from_pretrained(published.clip),
        scheduler=sampler(config.schedule),
        **parts,
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of a folder's weights in one file or in shards; safetensors before pickles.

    Raises:
        ConvertError: there is none, or a shard is missing.
    """
    if path.is_file():
        return _read_file(path)
    for kind in ("safetensors", "bin"):
        for stem in STEMS:
            index = path / f"{stem}.{kind}.index.json"
            if index.is_file():
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
                for shard in shards:
                    if not (path / shard).is_file():
                        raise ConvertError(f"{path / shard} is missing, {index.name} names it; download it anew")
                return {name: tensor for shard in shards for name, tensor in _read_file(path / shard).items()}
            if (path / f"{stem}.{kind}").is_file():
                return _read_file(path / f"{stem}.{kind}")
    names = ", ".join(f"{stem}.safetensors" for stem in STEMS)
    raise ConvertError(f"{path}: no weights lie here; it should hold one of {names}, their index, or the same as .bin")


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _check_there(published: Published) -> None:
    """Look for everything before the first minute is spent on reading.

    Raises:
        ConvertError: what is missing.
    """
    for name, path in vars(published).items():
        if path is not None and not path.exists():
            raise ConvertError(f"--{name.replace('_', '-')}: {path} is missing")
    for folder in (published.llm, published.clip):
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise ConvertError(f"{folder}: no tokenizer lies here; it should hold one of {', '.join(TOKENIZER_FILES)}")
    if not (published.llm / "config.json").is_file():
        raise ConvertError(f"{published.llm / 'config.json'} is missing; it says how LLaMA's norms were trained")


def _norm_eps(llm: Path) -> float:
    """Vicuna 1.1 and 1.5 differ in it."""
    config: dict[str, Any] = json.loads((llm / "config.json").read_text())
    config = config.get("text_config") or config.get("llm_cfg") or config
    return config.get("rms_norm_eps", 1e-6)


def _fresh_lora(vlm: VLM) -> dict[str, Tensor]:
    """LoRA as PEFT starts it: A like a linear layer, B zero."""
    fresh = {name: torch.zeros(parameter.shape) for name, parameter in vlm.named_parameters() if ".lora_" in name}
    for name, tensor in fresh.items():
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))
    return fresh


def _new_tables(
    llm: Mapping[str, Tensor], smartedit: Mapping[str, Tensor], config: FireEditConfig
) -> dict[str, Tensor]:
    """Rows of the new tokens in both tables of the LLM; SmartEdit's file has those of the head."""
    tokens = config.vlm.prompt.new_tokens
    tables = {"llm.model.embed_tokens.weight": None, "llm.lm_head.weight": smartedit.get("lm_head.weight")}
    if not tables.keys() <= llm.keys():
        raise weights.WeightsError("the LLM's file holds no model.embed_tokens or lm_head; give a LLaMA-7B")
    rows = [weights.new_rows(tokens, llm[name], table) for name, table in tables.items()]
    return {"new_embeddings.weight": rows[0], "new_head.weight": rows[1]}


def _own_tokens(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> PreTrainedTokenizerFast:
    """The tokenizer without the tokens that LLaVA and Groma added behind the vocabulary; ours have those ids."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < vocab_size]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.eos_token,
    )


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convert.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("groma", "llm", "dinov2", "clip", "instruct-pix2pix"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR")
    for name in ("smartedit", "ip-adapter"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE")
    parser.add_argument("--out", required=True, metavar="DIR", help="a folder, or s3://bucket/folder")
    parser.add_argument("--config", choices=["paper", "nano"], default="paper", help="sizes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the fresh weights (default: %(default)s)")
    return parser


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
