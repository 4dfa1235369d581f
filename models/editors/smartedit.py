"""SmartEdit-7B as an editor: LLaVA's states of picture and instruction, and BIM, condition InstructPix2Pix's UNet.

It departs from the authors' inference in three ways. They draw one of 30 templates of the request; here it is the
first. They sample the answer at temperature 0.7 until it has 32 tokens <img_i>; here the answer is the sentence that
their training pairs with the template, then the 32 tokens in order, so that one prefill gives the states of a greedy
loop that emits this answer. They run LLaMA in float32; on a GPU it runs in float16 here, as UNet and VAE do in both.

Source: SmartEdit (arXiv 2312.06739), TencentARC/SmartEdit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import CLIPVisionConfig, PreTrainedTokenizerBase

from fireedit.models import weights
from fireedit.models.checkpoint_files import (
    TOKENIZER_FILES,
    CheckpointFileError,
    check_file,
    read_json,
    read_tensors,
    read_tokenizer,
    tensor_files,
)
from fireedit.models.editors.editor import require_unchanged
from fireedit.models.editors.instruct_pix2pix import check_sizes, load_instruct_pix2pix
from fireedit.models.editors.smartedit_model import (
    IMG_TOKENS,
    SmartEditModel,
    SmartEditPrompt,
    build_bim,
    build_clip,
    build_llm,
    build_qformer,
)
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import squash
from fireedit.models.settings import PaintSettings
from fireedit.models.tokens import PromptError
from fireedit.models.unet import EditUNet

SETTINGS = PaintSettings(num_inference_steps=100, guidance_scale=7.5, image_guidance_scale=1.5)
SIDE = 256
"""Side of the pictures that it paints, pixels; sources are squashed to it."""
LLAVA, VICUNA, CLIP, PAINTER = "LLaVA-7B-v1", "vicuna-7b-v1-1", "clip-vit-large-patch14", "instruct-pix2pix"
TOKENIZERS = (VICUNA, LLAVA)
"""Folders that may hold LLaVA's tokenizer, in order of preference."""
SMARTEDIT = "SmartEdit-7B"
ADAPTER_CONFIG = f"{SMARTEDIT}/adapter_config.json"
ADAPTER = f"{SMARTEDIT}/LLM-15000/adapter_model.bin"
QFORMER = f"{SMARTEDIT}/embeddings_qformer/checkpoint-15000_embeddings_qformer.bin"
BIM = f"{SMARTEDIT}/modulate-15000/adapter_model.bin"
UNET = f"{SMARTEDIT}/unet-15000/adapter_model.bin"
FILES = (
    *(f"{LLAVA}/config.json", f"{CLIP}/config.json", ADAPTER_CONFIG, ADAPTER, QFORMER, BIM, UNET),
    *(f"{PAINTER}/model_index.json", f"{PAINTER}/unet/config.json"),
)
"""Files that the folder must hold, beside the weights of LLaVA and CLIP, a tokenizer, and the painter's other parts."""
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant can generate",
    ". The assistant needs to conduct the image to image translation task based on given image and text information. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
)
"""System prompt before and after the token <img>; the authors' `vicuna_v1.3`."""
REQUEST = ' USER: Could you produce an image based on the previous image and text description "'
ANSWER = '"? ASSISTANT: Certainly, I can create the image you requested'
"""Texts of the authors' first template before the instruction, and from there to the tokens <img_i>."""


class PromptBuilder:
    """Tokenizes prompts as the authors' transformers 4.28 does: each text between two added tokens on its own, trimmed.

    Args:
        vocab_size: number of tokens before the added ones.
        longest: largest number of positions of LLaMA.
        picture_tokens: number of positions that the picture takes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, longest: int, picture_tokens: int):
        self.tokenizer, self.limit = tokenizer, longest - picture_tokens
        ids = {token: vocab_size + index for index, token in enumerate(weights.SMARTEDIT_TOKENS)}
        self.start, self.end = ids["<im_start>"], ids["<im_end>"]
        self.img_ids = [ids[f"<img_{index}>"] for index in range(IMG_TOKENS)]
        opening = [tokenizer.bos_token_id, *self._text(SYSTEM[0]), ids["<img>"], *self._text(SYSTEM[1] + REQUEST)]
        self.before = [*opening, self.start]

    def __call__(self, instruction: str) -> SmartEditPrompt:
        """Build the prompt of an instruction, without its line breaks and outer spaces.

        Raises:
            PromptError: it is too long.
        """
        text = self._text(instruction.replace("\n", "").strip() + ANSWER)
        prompt = SmartEditPrompt(self.before, [self.end, *text, *self.img_ids])
        if (length := len(prompt.before) + len(prompt.after)) > self.limit:
            found = f"{instruction[:40]!r}... makes a prompt of {length} tokens"
            raise PromptError(f"{found}; at most {self.limit} fit: write a shorter text")
        return prompt

    def _text(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


class SmartEdit:
    """SmartEdit, sampled with Euler's ancestral method; BIM's image features enter all branches of the guidance.

    Args:
        pipeline: UNet, VAE, and the text encoder of the unconditional prompt.
        side: side of the pictures that it paints, pixels.
    """

    name, settings = "smartedit", SETTINGS

    def __init__(self, model: SmartEditModel, prompts: PromptBuilder, pipeline: FireEditPipeline, side: int = SIDE):
        self.model, self.prompts, self.pipeline, self.side = model, prompts, pipeline, side
        self.weights = weights.fingerprint(nn.ModuleDict({"model": model, "painter": pipeline.model}))
        pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def edit(
        self, pictures: Sequence[np.ndarray], instructions: Sequence[str], seeds: Sequence[int], settings: PaintSettings
    ) -> list[np.ndarray]:
        require_unchanged(self, settings, "keep_below")
        # Understood, encoded and decoded one by one: neither padding nor the shapes of a batch change a picture.
        conditions = [self._understand(*each) for each in zip(pictures, instructions, strict=True)]
        states = [
            self.pipeline.prepare(
                [squash(picture, self.side)], None, text, settings, [torch.Generator().manual_seed(seed)]
            )
            for picture, (text, _), seed in zip(pictures, conditions, seeds, strict=True)
        ]
        with added_to(self.pipeline.unet.conv_in, torch.cat([features for _, features in conditions])):
            for _ in range(states[0].steps_left):
                self.pipeline.denoise(*states)
        return [self.pipeline.decode(self.pipeline.finish(state))[0] for state in states]

    def _understand(self, picture: np.ndarray, instruction: str) -> tuple[Tensor, Tensor]:
        view = torch.tensor(squash(picture, self.model.clip.config.image_size))
        cells = self.side // 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)
        return self.model(view, self.prompts(instruction), (cells, cells))

    def to(self, device: str, dtype: torch.dtype) -> None:
        """Move to a device: LLaMA, text encoder, UNet and VAE in `dtype`, CLIP, Q-Former and BIM in float32."""
        for part in self.model.children():
            part.to(device, dtype if part is self.model.llm else torch.float32)
        self.pipeline.to(device, dtype)


@contextmanager
def added_to(layer: nn.Module, features: Tensor) -> Iterator[None]:
    """Add features [N, C, h, w] to a layer's output [N k, C, h, w], the k branches of the first sample first."""

    def add(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output + features.to(output.dtype).repeat_interleave(len(output) // len(features), dim=0)

    hook = layer.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def load(folder: Path, device: str) -> SmartEdit:
    """Load the folders of SmartEdit's and its parts' authors, side by side in one: see `FILES`.

    Raises:
        CheckpointFileError: a file is missing, damaged or not what its name says.
        WeightsError: the tensors of a file do not fit.
    """
    check_layout(folder)
    tokenizer = read_tokenizer(folder / next(name for name in TOKENIZERS if _has_tokenizer(folder / name)))
    pipeline, model = load_painter(folder), load_model(folder)
    positions = model.clip.config.image_size // model.clip.config.patch_size
    llama, vocab_size = model.llm.config, model.llm.config.vocab_size - len(weights.SMARTEDIT_TOKENS)
    prompts = PromptBuilder(tokenizer, vocab_size, llama.max_position_embeddings, positions**2)
    editor = SmartEdit(model.eval().requires_grad_(False), prompts, pipeline)
    editor.to(device, torch.float16 if device.startswith("cuda") else torch.float32)
    return editor


def check_layout(folder: Path) -> None:
    """Raise CheckpointFileError, naming all that is missing, unless the folder is laid out as `FILES` says."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if not any(_has_tokenizer(folder / name) for name in TOKENIZERS):
        missing.append(f"{VICUNA}/tokenizer.model")
    if missing:
        raise CheckpointFileError(
            f"{folder}: found no {', '.join(missing)}; it should hold SmartEdit-7B/ (TencentARC/SmartEdit-7B), "
            f"{LLAVA}/ (LLaVA 1.1, merged), {CLIP}/ (openai/{CLIP}), {PAINTER}/ (timbrooks/{PAINTER}) and a tokenizer, "
            f"in {VICUNA}/ (lmsys/vicuna-7b-v1.1) or in {LLAVA}/"
        )
    for name in FILES:
        check_file(folder / name)
    for name in (LLAVA, CLIP):
        tensor_files(folder / name)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def load_model(folder: Path) -> SmartEditModel:
    """Load all networks before the UNet, each tensor in its published precision."""
    config = read_json(folder / LLAVA / "config.json")
    clip_config = CLIPVisionConfig.from_pretrained(folder / CLIP)
    clip = build_clip(clip_config, read_tensors(folder / CLIP), str(folder / CLIP))
    files, adapter = (
        f"{folder / LLAVA} and {folder / ADAPTER}",
        read_json(folder / ADAPTER_CONFIG, "r", "lora_alpha", "target_modules"),
    )
    llava = read_tensors(folder / LLAVA)
    weights.require_merged(llava, str(folder / LLAVA))
    llm = build_llm(config, llava, adapter, read_tensors(folder / ADAPTER), files)
    qformer, projector = build_qformer(read_tensors(folder / QFORMER), str(folder / QFORMER))
    bim = build_bim(read_tensors(folder / BIM), str(folder / BIM))
    return SmartEditModel(clip, projector, llm, qformer, bim, layer=config.get("mm_vision_select_layer", -2))


def load_painter(folder: Path) -> FireEditPipeline:
    """Load InstructPix2Pix's VAE, text encoder and scheduler, and SmartEdit's UNet, in float32."""
    pipeline = load_instruct_pix2pix(folder / PAINTER, ("vae", "text_encoder", "tokenizer", "scheduler"))
    config = read_json(folder / PAINTER / "unet" / "config.json")
    check_sizes(config)
    with init_empty_weights():
        unet = EditUNet.from_config(config)
    tensors = weights.smartedit_unet(read_tensors(folder / UNET))
    if not {"conv_in.weight", "conv_out.weight"} <= tensors.keys():
        raise weights.WeightsError(f"{folder / UNET}: found no unet.conv_in.weight; give it SmartEdit-7B's file")
    weights.load_strict(unet, weights.stable_diffusion_unet(tensors), source=str(folder / UNET))
    pipeline.register_modules(unet=unet.float().eval().requires_grad_(False))
    return pipeline
