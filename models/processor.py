"""From a sample to the tensors that the model reads; training and serving go through the same functions."""

import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fireedit.models.model import FireEditConfig
from fireedit.models.text import tokenize_text
from fireedit.models.tokens import IGNORED, PADDING, Prompt, PromptConfig, PromptTokenizer


class EncodingError(ValueError):
    """A sample of an encoded corpus lacks its encoding, or has that of a model of other sizes."""


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    view_size: int
    """Side of what the encoders see."""
    canvas_size: int
    """Side of what is painted."""
    text_tokens: int
    vocab_size: int
    """Rows of the LLM's own tables, behind which the new tokens' ids begin."""
    prompt: PromptConfig
    moments_shape: tuple[int, int, int]
    """Of a canvas in the VAE's words, [2 C, h, w]."""
    text_width: int
    """Channels of CLIP's text states."""
    encoded: bool = False
    """Whether samples bring the VAE's moments and CLIP's text states along, so that training runs neither encoder."""

    @classmethod
    def of(cls, config: FireEditConfig, encoded: bool = False) -> Self:
        """What a model of these sizes reads."""
        return cls(
            view_size=config.vision.image_size,
            canvas_size=config.vae.sample_size,
            text_tokens=config.text.tokens,
            vocab_size=config.vlm.vocab_size,
            prompt=config.vlm.prompt,
            moments_shape=config.vae.moments_shape,
            text_width=config.text.width,
            encoded=encoded,
        )


@dataclass(frozen=True)
class Batch:
    """What a training step reads; B samples of any task."""

    ids: list[str]
    corpora: list[str]
    input_ids: Tensor
    """[B, T], right-padded with PADDING."""
    labels: Tensor
    """[B, T], IGNORED where nothing is learnt."""
    view: Tensor
    """uint8 [B, V, V, 3]; one black pixel for a caption."""
    source: Tensor
    """uint8 [B, S, S, 3]; black for dialogue, one black pixel for a caption. If encoded, the moments of edits and zeros
    for dialogue: float16 [B, 2 C, h, w]."""
    target: Tensor
    """As source."""
    is_edit: Tensor
    """bool [B]."""
    text_ids: Tensor
    """[B, 77] of CLIP's tokenizer: the caption, or the instruction in its plain form; those of "" for dialogue."""
    null_text_ids: Tensor
    """[1, 77]: those of ""."""
    text_states: Tensor | None = None
    """float16 [B, 77, W]: what CLIP's text encoder makes of `text_ids`; of encoded captions only."""

    def to(self, device: torch.device | str) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def squash(image: np.ndarray | Image.Image, side: int) -> np.ndarray:
    """An RGB picture of any size to uint8 [side, side, 3], its aspect not kept, as Groma and SmartEdit do."""
    if isinstance(image, np.ndarray) and image.shape == (side, side, 3):
        return image
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


class Processor:
    """Turns samples into rows of fixed-size arrays and rows into batches. Has no weights, so data workers hold it."""

    def __init__(
        self, vlm_tokenizer: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, config: ProcessorConfig
    ):
        self.config = config
        self.prompts = PromptTokenizer(vlm_tokenizer, config.vocab_size, config.prompt)
        self.tokenizer = tokenizer
        self.null_text_ids = tokenize_text(tokenizer, [""], config.text_tokens)

    def row(self, sample: Mapping[str, Any]) -> dict[str, np.ndarray | str | bool]:
        """One sample, its images decoded to uint8 RGB arrays, as arrays of the sizes of `Batch`.

        Args:
            sample: if `config.encoded`, an edit has `source_moments` and `target_moments`, float16 [2 C, h, w], in
                place of `target`, and a caption has `text_states`, float16 [77, W]; else these are not looked at. Where
                it has `plain`, CLIP reads that in place of `instruction`.
        Raises:
            PromptError: the text is too long.
            EncodingError: `config.encoded`, and the encoding is missing or has another shape.
        """
        is_caption = sample["task"] == "caption"
        prompt = self._prompt(sample)
        row = {
            "id": sample["id"],
            "corpus": sample["corpus"],
            "input_ids": self._padded(prompt.input_ids, PADDING),
            "labels": self._padded(prompt.labels, IGNORED),
            "view": _black(1) if is_caption else squash(sample["source"], self.config.view_size),
            "source": self._canvas(sample, "source"),
            "target": self._canvas(sample, "target"),
            "is_edit": sample["task"] == "edit",
            "text_ids": self._text_ids("" if sample["task"] == "vqa" else sample.get("plain") or sample["instruction"]),
        }
        if is_caption and self.config.encoded:
            row["text_states"] = _encoding(sample, "text_states", (self.config.text_tokens, self.config.text_width))
        return row

    def batch(self, columns: Mapping[str, np.ndarray]) -> Batch:
        """Rows of `row`, stacked by name, to a batch without a copy; prompts are cut to the longest one."""
        names = ("input_ids", "labels", "view", "source", "target", "is_edit", "text_ids", "text_states")
        with warnings.catch_warnings():  # columns lie in memory that processes share; a batch is only read
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            tensors = {name: torch.from_numpy(columns[name]) for name in names if name in columns}
        longest = int((tensors["input_ids"] != PADDING).sum(dim=1).max())
        tensors["input_ids"] = tensors["input_ids"][:, :longest]
        tensors["labels"] = tensors["labels"][:, :longest]
        return Batch(
            ids=columns["id"].tolist(),
            corpora=columns["corpus"].tolist(),
            null_text_ids=self.null_text_ids,
            **tensors,
        )

    def _prompt(self, sample: Mapping[str, Any]) -> Prompt:
        if sample["task"] == "caption":
            return self.prompts.caption(sample["instruction"], template=zlib.crc32(sample["id"].encode()))
        if sample["task"] == "vqa":
            return self.prompts.dialogue(sample["questions"], sample["answers"])
        return self.prompts.edit(sample["instruction"])

    def _canvas(self, sample: Mapping[str, Any], name: str) -> np.ndarray:
        """The source or the target as the painter reads it; blank for a task that is not painted."""
        is_edit = sample["task"] == "edit"
        if sample["task"] == "caption":
            return _black(1)
        if self.config.encoded:
            shape = self.config.moments_shape
            return _encoding(sample, f"{name}_moments", shape) if is_edit else np.zeros(shape, np.float16)
        side = self.config.canvas_size
        return squash(sample[name], side) if is_edit else _black(side)

    def _text_ids(self, text: str) -> np.ndarray:
        if not text:
            return self.null_text_ids[0].numpy()
        return tokenize_text(self.tokenizer, [text], self.config.text_tokens)[0].numpy()

    def _padded(self, values: list[int], padding: int) -> np.ndarray:
        array = np.full(self.config.prompt.max_tokens, padding, np.int64)
        array[: len(values)] = values
        return array


def _black(side: int) -> np.ndarray:
    return np.zeros((side, side, 3), np.uint8)


def _encoding(sample: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
    stored = sample.get(name)
    if stored is None:
        raise EncodingError(
            f"{sample['id']} has no {name}; run `jobs/prepare.py shards --encode latents` on corpus {sample['corpus']}"
        )
    if np.shape(stored) != shape:
        raise EncodingError(
            f"{sample['id']}: {name} is {list(np.shape(stored))}, and this model reads {list(shape)}; "
            f"run `jobs/prepare.py shards --encode latents` with this model"
        )
    return np.asarray(stored, np.float16)
