"""Published checkpoints at tiny sizes, and the models that they hold."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import sentencepiece
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from fireedit.benchmarks import published_folders as published
from fireedit.jobs.training.published_files import PublishedPaths
from tests.factories import PAPERLIKE


@dataclass(frozen=True)
class Published:
    """Folders under `root`, and what they hold."""

    root: Path
    dinov2: nn.Module
    clip: Any
    llm: LlamaForCausalLM
    """Vicuna, with which groma-7b-pretrain was trained."""
    finetuned: LlamaForCausalLM
    """LLM of groma-7b-finetune."""
    llava: LlamaForCausalLM
    """LLaVA 1.1, merged, on which SmartEdit's LoRA was trained."""
    groma: dict[str, nn.Module]
    unet: nn.Module
    vae: nn.Module
    smartedit: dict[str, nn.Module]
    sentences: sentencepiece.SentencePieceProcessor
    """Vicuna's tokenizer."""

    def paths(self, **changed: Path | None) -> PublishedPaths:
        """Name the folders of a conversion: Groma's pretrained, Vicuna, DINOv2, CLIP and InstructPix2Pix."""
        names = {
            "groma": "groma-7b-pretrain",
            "llm": "vicuna-7b-v1.5",
            "dinov2": "dinov2-large",
            "clip": "clip-vit-large-patch14",
            "instruct_pix2pix": "instruct-pix2pix",
        }
        paths = PublishedPaths(**{option: self.root / name for option, name in names.items()})
        return replace(paths, **changed)


def publish(root: Path) -> Published:
    """Write every folder that convert.py reads, named as its authors do."""
    root.mkdir(parents=True, exist_ok=True)
    sentences = train_sentencepiece(root / "tokenizer.model")
    dinov2 = published.save_dinov2(root / "dinov2-large", PAPERLIKE)
    clip = published.save_clip(root / "clip-vit-large-patch14", PAPERLIKE, seed=1)
    llm, finetuned, llava = (published.build_llm(PAPERLIKE, seed) for seed in (2, 3, 9))
    published.save_vicuna(root / "vicuna-7b-v1.5", llm, root / "tokenizer.model")
    published.save_llava(root / "llava-v1.5-7b", published.build_llm(PAPERLIKE, 4), root / "tokenizer.model")
    published.save_llava(root / "LLaVA-7B-v1", llava, root / "tokenizer.model")
    groma = published.groma_parts(PAPERLIKE, seed=5)
    published.save_groma(root / "groma-7b-pretrain", groma, dinov2, llm, root / "tokenizer.model")
    others = published.groma_parts(PAPERLIKE, seed=6)
    published.save_groma(root / "groma-7b-finetune", others, dinov2, finetuned, root / "tokenizer.model")
    unet, vae = published.save_instruct_pix2pix(root / "instruct-pix2pix", PAPERLIKE, seed=8)
    smartedit = published.save_smartedit(root / "SmartEdit-7B", PAPERLIKE, llava)
    return Published(root, dinov2, clip, llm, finetuned, llava, groma, unet, vae, smartedit, sentences)


def write(path: Path, state: dict[str, Tensor]) -> Path:
    """Write tensors to a file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.clone() for name, tensor in state.items()}
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    return path


def train_sentencepiece(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Write a `tokenizer.model` as LLaMA's: BPE with bytes for rare letters."""
    model = io.BytesIO()
    words = [f"make the {thing} {color}" for thing in ("hat", "cat", "house") for color in ("red", "blue", "green")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path))
