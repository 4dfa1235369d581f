"""From a sample to the tensors that the model reads; training and serving go through the same functions."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fireedit.models.fireedit import FireEditConfig
from fireedit.models.text import tokenize_text
from fireedit.models.tokens import IGNORED, PADDING, Prompt, PromptConfig, PromptTokenizer


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

    @classmethod
    def of(cls, config: FireEditConfig) -> Self:
        """What a model of these sizes reads."""
        return cls(
            view_size=config.vision.image_size,
            canvas_size=config.vae.sample_size,
            text_tokens=config.text.tokens,
            vocab_size=config.vlm.vocab_size,
            prompt=config.vlm.prompt,
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
    """uint8 [B, S, S, 3]; black for dialogue, one black pixel for a caption."""
    target: Tensor
    """As source."""
    is_edit: Tensor
    """bool [B]."""
    text_ids: Tensor
    """[B, 77] of CLIP's tokenizer: the caption's words; those of "" for other tasks."""
    null_text_ids: Tensor
    """[1, 77]: those of ""."""

    def to(self, device: torch.device | str) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def squash(image: np.ndarray | Image.Image, side: int) -> np.ndarray:
    """An RGB picture of any size to uint8 [side, side, 3], its aspect not kept, as Groma and SmartEdit do."""
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

        Raises:
            PromptError: the text is too long.
        """
        task, source = sample["task"], sample["source"]
        view_side, canvas_side = (1, 1) if task == "caption" else (self.config.view_size, self.config.canvas_size)
        blank = np.zeros((canvas_side, canvas_side, 3), np.uint8)
        is_edit = task == "edit"
        prompt = self._prompt(sample)
        caption = sample["instruction"] if task == "caption" else ""
        return {
            "id": sample["id"],
            "corpus": sample["corpus"],
            "input_ids": self._padded(prompt.input_ids, PADDING),
            "labels": self._padded(prompt.labels, IGNORED),
            "view": blank if task == "caption" else squash(source, view_side),
            "source": squash(source, canvas_side) if is_edit else blank,
            "target": squash(sample["target"], canvas_side) if is_edit else blank,
            "is_edit": is_edit,
            "text_ids": tokenize_text(self.tokenizer, [caption], self.config.text_tokens)[0].numpy(),
        }

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Rows of `row` to a batch; prompts are cut to the longest one.

        Raises:
            ValueError: captions, which stage 1 reads, among samples with pictures, which stages 2 and 3 read.
        """
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        if len({view.shape for view in columns["view"]}) > 1:
            raise ValueError("captions and pictures in one batch; mix corpora of captions with no others")
        tensors = {
            name: torch.from_numpy(np.stack(columns[name]))
            for name in ("input_ids", "labels", "view", "source", "target", "text_ids")
        }
        longest = int((tensors["input_ids"] != PADDING).sum(dim=1).max())
        tensors["input_ids"] = tensors["input_ids"][:, :longest]
        tensors["labels"] = tensors["labels"][:, :longest]
        return Batch(
            ids=columns["id"],
            corpora=columns["corpus"],
            is_edit=torch.tensor(columns["is_edit"]),
            null_text_ids=self.null_text_ids,
            **tensors,
        )

    def _prompt(self, sample: Mapping[str, Any]) -> Prompt:
        if sample["task"] == "caption":
            return self.prompts.caption(sample["instruction"], template=zlib.crc32(sample["id"].encode()))
        if sample["task"] == "vqa":
            return self.prompts.dialogue(sample["questions"], sample["answers"])
        return self.prompts.edit(sample["instruction"])

    def _padded(self, values: list[int], padding: int) -> np.ndarray:
        array = np.full(self.config.prompt.max_tokens, padding, np.int64)
        array[: len(values)] = values
        return array
