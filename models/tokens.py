"""Prompts of the VLM: token ids of instruction, marks of image and regions, and [IMG] tokens as the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a gateway counts tokens without loading torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a position without loss."""
PADDING = -1
"""Input id after the end of a prompt; the VLM masks it."""
IMAGE_START, IMAGE_END, REGIONS_START, REGIONS_END = "<im_start>", "<im_end>", "<roi>", "</roi>"
CAPTION_TEMPLATES = (
    "Paint a picture of this: {caption}",
    "Show me {caption}",
    "What would this look like? {caption}",
    "Create an image that shows {caption}",
    "Draw what this sentence says: {caption}",
    "I want to see {caption}",
)


class PromptError(ValueError):
    """A text is too long for the prompt."""


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Format of the prompts."""

    img_tokens: int = 32
    """Number of [IMG] tokens, the VLM's answer."""
    max_tokens: int = 512
    """Maximum length of a prompt, image and region tokens not counted."""
    system: str = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    """System prompt before the first turn; Vicuna's."""

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """Tokens without rows in the LLM's own tables, in the order of their ids: vocab_size, vocab_size + 1, ..."""
        marks = (IMAGE_START, IMAGE_END, REGIONS_START, REGIONS_END)
        return marks + tuple(f"<img_{index}>" for index in range(self.img_tokens))


@dataclass
class Prompt:
    """Tokenized prompt; the VLM inserts image and region tokens after `<im_start>` and `<roi>`."""

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    """Target ids of the language model, as long as input_ids, or IGNORED."""

    def add(self, ids: Sequence[int], is_target: bool = False) -> None:
        self.input_ids += ids
        self.labels += ids if is_target else [IGNORED] * len(ids)


class PromptTokenizer:
    """Builds the prompts of the three tasks. User text is never parsed for special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, config: PromptConfig):
        if len(tokenizer) > vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens for the {vocab_size} rows of the LLM's table, so that some "
                "would have the ids of the new tokens; remove the tokens that were added to it"
            )
        self.tokenizer, self.config = tokenizer, config
        self.new_ids = {token: vocab_size + index for index, token in enumerate(config.new_tokens)}
        self.img_ids = [self.new_ids[f"<img_{index}>"] for index in range(config.img_tokens)]
        self._opening_ids = [tokenizer.bos_token_id, *self._text(f"{config.system} USER:".strip())]
        self._regions_ids, self._answer_ids = self._text("Regions:"), self._text("ASSISTANT:")

    def edit(self, instruction: str) -> Prompt:
        """Build a prompt of image, regions and instruction, answered by the [IMG] tokens, the only targets."""
        prompt = self._question_on_image(instruction)
        prompt.add(self.img_ids, is_target=True)
        return self._checked(prompt, instruction)

    def caption(self, caption: str, template: int = 0) -> Prompt:
        """Build a prompt of text alone, answered by the [IMG] tokens, for stage 1."""
        request = CAPTION_TEMPLATES[template % len(CAPTION_TEMPLATES)].format(caption=caption)
        prompt = Prompt()
        prompt.add([*self._opening_ids, *self._text(request), *self._answer_ids])
        prompt.add(self.img_ids, is_target=True)
        return self._checked(prompt, caption)

    def dialogue(self, questions: Sequence[str], answers: Sequence[str]) -> Prompt:
        """Build a prompt of questions on an image, answers as targets; later turns that do not fit are dropped."""
        prompt = self._question_on_image(questions[0])
        prompt.add([*self._text(answers[0]), self.tokenizer.eos_token_id], is_target=True)
        for question, answer in zip(questions[1:], answers[1:], strict=True):
            question_ids = self._text(f"USER: {question} ASSISTANT:")
            answer_ids = [*self._text(answer), self.tokenizer.eos_token_id]
            if len(prompt.input_ids) + len(question_ids) + len(answer_ids) > self.config.max_tokens:
                break
            prompt.add(question_ids)
            prompt.add(answer_ids, is_target=True)
        return self._checked(prompt, questions[0])

    def _question_on_image(self, question: str) -> Prompt:
        image, regions = (IMAGE_START, IMAGE_END), (REGIONS_START, REGIONS_END)
        prompt = Prompt()
        prompt.add([*self._opening_ids, *(self.new_ids[mark] for mark in image), *self._regions_ids])
        prompt.add([*(self.new_ids[mark] for mark in regions), *self._text(f"{question} ASSISTANT:")])
        return prompt

    def _text(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def _checked(self, prompt: Prompt, text: str) -> Prompt:
        if (length := len(prompt.input_ids)) > (limit := self.config.max_tokens):
            found = f"{text[:40]!r}... makes a prompt of {length} tokens"
            raise PromptError(f"{found}; at most {limit} fit: write a shorter text")
        return prompt
