"""Preprocessing, shared by training and serving: from a sample to the tensors that the model reads."""

import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fireedit.models.layers.device import to_device
from fireedit.models.model import FireEditConfig
from fireedit.models.text import tokenize_text
from fireedit.models.tokens import IGNORED, PADDING, Prompt, PromptTokenizer

ON_HOST = ("input_ids", "labels", "seeds")
"""Fields of `Batch` that stay on the CPU: they say how the others are arranged, and a GPU would be waited for."""
InputRow = dict[str, np.ndarray | str | bool]
"""Values of one sample for `Batch`, by the names of its fields or their singular in `RENAMED`."""
RENAMED = {"id": "ids", "corpus": "corpora"}


class EncodingError(ValueError):
    """The encoding of a sample is missing, or has the shape of another model."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Input of a training step: B samples of any task."""

    ids: list[str]
    corpora: list[str]
    input_ids: Tensor
    """int64 [B, T] on the CPU, right-padded with PADDING."""
    labels: Tensor
    """int64 [B, T] on the CPU, IGNORED where there is no loss."""
    view: Tensor
    """uint8 RGB [B, V, V, 3], input of the vision encoders; one black pixel for captions."""
    source_pixels: Tensor | None = None
    """uint8 RGB [B, S, S, 3], input of the VAE; black for dialogue. None for captions and encoded corpora."""
    target_pixels: Tensor | None = None
    """uint8 RGB [B, S, S, 3], as source_pixels."""
    source_moments: Tensor | None = None
    """float16 [B, 2 C, h, w], output of the VAE for the source; zeros for dialogue. Of encoded corpora only."""
    target_moments: Tensor | None = None
    """float16 [B, 2 C, h, w], as source_moments."""
    is_edit: Tensor
    """bool [B]."""
    text_ids: Tensor
    """int64 [B, 77], CLIP tokens of the caption or of the instruction's plain form; those of "" for dialogue."""
    text_states: Tensor | None = None
    """float16 [B, 77, W], CLIP text states of `text_ids`; of encoded captions only."""
    null_text_ids: Tensor
    """int64 [1, 77], CLIP tokens of ""."""
    seeds: Tensor | None = None
    """int64 [B], on the CPU: seed of each sample's noise, timestep and condition dropout, see draws.py; None: seeds are
    drawn from torch's random state."""

    def to(self, device: torch.device | str) -> Self:
        """Copy all tensors but ON_HOST to a device, without waiting for its work."""
        moved: dict[str, Any] = {
            name: to_device(value, device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name not in ON_HOST
        }
        return replace(self, **moved)


def squash(image: np.ndarray | Image.Image, side: int) -> np.ndarray:
    """Resize an RGB image to uint8 [side, side, 3], ignoring its aspect ratio, as Groma and SmartEdit do."""
    if isinstance(image, np.ndarray) and image.shape == (side, side, 3):
        return image
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


class Processor:
    """Converts samples to rows of fixed-size arrays and rows to batches. Has no weights, so data workers hold it.

    Args:
        encoded: samples contain VAE moments and CLIP text states, so that training runs neither encoder.
    """

    def __init__(
        self,
        vlm_tokenizer: PreTrainedTokenizerBase,
        tokenizer: PreTrainedTokenizerBase,
        config: FireEditConfig,
        encoded: bool = False,
    ):
        self.config, self.encoded = config, encoded
        self.prompts = PromptTokenizer(vlm_tokenizer, config.vlm.vocab_size, config.vlm.prompt)
        self.tokenizer = tokenizer
        self.null_text_ids = tokenize_text(tokenizer, [""], config.text.tokens)

    def row(self, sample: Mapping[str, Any]) -> InputRow:
        """Convert one sample, its images decoded to uint8 RGB arrays, to values of `Batch`.

        Args:
            sample: if `encoded`, an edit has `source_moments` and `target_moments`, float16 [2 C, h, w], in
                place of `target`, and a caption has `text_states`, float16 [77, W]; otherwise these are ignored. CLIP
                reads `plain`, if present and not empty, in place of `instruction`.
        Raises:
            PromptError: the text is too long.
            EncodingError: `encoded`, and the encoding is missing or has another shape.
        """
        is_caption = sample["task"] == "caption"
        text = "" if sample["task"] == "vqa" else sample.get("plain") or sample["instruction"]
        prompt = self._prompt(sample)
        return {
            "id": sample["id"],
            "corpus": sample["corpus"],
            "input_ids": self._padded(prompt.input_ids, PADDING),
            "labels": self._padded(prompt.labels, IGNORED),
            "view": _black(1) if is_caption else squash(sample["source"], self.config.vision.image_size),
            "is_edit": sample["task"] == "edit",
            "text_ids": tokenize_text(self.tokenizer, [text], self.config.text.tokens)[0].numpy(),
            **(self._text_states(sample) if is_caption else self._images(sample)),
        }

    def batch(self, columns: Mapping[str, np.ndarray]) -> Batch:
        """Convert stacked rows to a batch, not copied; prompts are cut to the longest one."""
        with warnings.catch_warnings():  # columns are in memory shared by processes; a batch is only read
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            values: dict[str, Any] = {
                RENAMED.get(name, name): column.tolist() if name in RENAMED else torch.from_numpy(column)
                for name, column in columns.items()
            }
        longest = int((values["input_ids"] != PADDING).sum(dim=1).max())
        values["input_ids"] = values["input_ids"][:, :longest]
        values["labels"] = values["labels"][:, :longest]
        return Batch(null_text_ids=self.null_text_ids, **values)

    def _prompt(self, sample: Mapping[str, Any]) -> Prompt:
        if sample["task"] == "caption":
            return self.prompts.caption(sample["instruction"], template=zlib.crc32(sample["id"].encode()))
        if sample["task"] == "vqa":
            return self.prompts.dialogue(sample["questions"], sample["answers"])
        return self.prompts.edit(sample["instruction"])

    def _images(self, sample: Mapping[str, Any]) -> InputRow:
        """Convert source and target of an edit to pixels or moments; blank ones for dialogue."""
        is_edit, side, shape = sample["task"] == "edit", self.config.vae.sample_size, self.config.vae.moments_shape
        if self.encoded:
            names = ("source_moments", "target_moments")
            return {name: _encoding(sample, name, shape) if is_edit else np.zeros(shape, np.float16) for name in names}
        return {
            f"{name}_pixels": squash(sample[name], side) if is_edit else _black(side) for name in ("source", "target")
        }

    def _text_states(self, sample: Mapping[str, Any]) -> InputRow:
        shape = (self.config.text.tokens, self.config.text.width)
        return {"text_states": _encoding(sample, "text_states", shape)} if self.encoded else {}

    def _padded(self, values: list[int], padding: int) -> np.ndarray:
        array = np.full(self.config.vlm.prompt.max_tokens, padding, np.int64)
        array[: len(values)] = values
        return array


def _black(side: int) -> np.ndarray:
    return np.zeros((side, side, 3), np.uint8)


def _encoding(sample: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
    stored = sample.get(name)
    if stored is None or np.shape(stored) != shape:
        found = "missing" if stored is None else list(np.shape(stored))
        raise EncodingError(
            f"{sample['id']}: {name} is {found}, and this model reads {list(shape)}; "
            f"run `jobs/prepare.py shards --encode latents` with this model on corpus {sample['corpus']}"
        )
    return np.asarray(stored, np.float16)
