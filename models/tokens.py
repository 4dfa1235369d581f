"""Words in, token ids out: the prompt that the VLM reads and the [IMG] tokens that it answers with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a position that no loss looks at."""
PADDING = -1
"""Input id behind the end of a prompt; the VLM masks it."""
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
    """A text that does not fit into the prompt."""


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    img_tokens: int = 32
    """[IMG] tokens that the VLM answers with."""
    max_tokens: int = 512
    """Longest prompt, without what image and regions put into it."""
    system: str = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    """What stands before the first turn; the words that Vicuna was tuned with."""

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """Tokens that the LLM has no rows for, in the order of their ids: vocab_size, vocab_size + 1, ..."""
        marks = (IMAGE_START, IMAGE_END, REGIONS_START, REGIONS_END)
        return marks + tuple(f"<img_{index}>" for index in range(self.img_tokens))


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt; image and region tokens are put in behind `<im_start>` and `<roi>` by the VLM."""

    input_ids: list[int]
    labels: list[int]
    """As long as input_ids; what the language model should say there, or IGNORED."""


@dataclass
class _Draft:
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], learn: bool = False) -> None:
        self.ids += ids
        self.labels += ids if learn else [IGNORED] * len(ids)


class PromptTokenizer:
    """Writes the three kinds of prompt. Text of a person is never read as a special token, whatever it says."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, config: PromptConfig):
        if len(tokenizer) > vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens for the {vocab_size} rows of the LLM's table, so that some "
                "would have the ids of ours; leave out those that were added to it"
            )
        self.tokenizer, self.config = tokenizer, config
        self.new_ids = {token: vocab_size + index for index, token in enumerate(config.new_tokens)}
        self.img_ids = [self.new_ids[f"<img_{index}>"] for index in range(config.img_tokens)]
        self._opening_ids = [tokenizer.bos_token_id, *self._text(f"{config.system} USER:".strip())]
        self._regions_ids, self._answer_ids = self._text("Regions:"), self._text("ASSISTANT:")

    def edit(self, instruction: str) -> Prompt:
        """Picture, regions and instruction, answered with the [IMG] tokens, which alone are learnt."""
        draft = self._question_on_picture(instruction)
        draft.add(self.img_ids, learn=True)
        return self._finish(draft, instruction)

    def caption(self, caption: str, template: int = 0) -> Prompt:
        """A text alone, answered with the [IMG] tokens: stage 1, where they learn to stand for CLIP's states."""
        draft = self._opening()
        draft.add(self._text(CAPTION_TEMPLATES[template % len(CAPTION_TEMPLATES)].format(caption=caption)))
        draft.add(self._answer_ids)
        draft.add(self.img_ids, learn=True)
        return self._finish(draft, caption)

    def dialogue(self, questions: Sequence[str], answers: Sequence[str]) -> Prompt:
        """Questions about a picture, of which the answers are learnt; late turns that do not fit are left out."""
        draft = self._question_on_picture(questions[0])
        draft.add([*self._text(answers[0]), self.tokenizer.eos_token_id], learn=True)
        for question, answer in zip(questions[1:], answers[1:], strict=True):
            asked = self._text(f"USER: {question} ASSISTANT:")
            said = [*self._text(answer), self.tokenizer.eos_token_id]
            if len(draft.ids) + len(asked) + len(said) > self.config.max_tokens:
                break
            draft.add(asked)
            draft.add(said, learn=True)
        return self._finish(draft, questions[0])

    def _opening(self) -> _Draft:
        draft = _Draft()
        draft.add(self._opening_ids)
        return draft

    def _question_on_picture(self, question: str) -> _Draft:
        draft = self._opening()
        draft.add([self.new_ids[IMAGE_START], self.new_ids[IMAGE_END]])
        draft.add(self._regions_ids)
        draft.add([self.new_ids[REGIONS_START], self.new_ids[REGIONS_END]])
        draft.add(self._text(f"{question} ASSISTANT:"))
        return draft

    def _text(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def _finish(self, draft: _Draft, text: str) -> Prompt:
        if len(draft.ids) > self.config.max_tokens:
            raise PromptError(
                f"{text[:40]!r}... makes a prompt of {len(draft.ids)} tokens; "
                f"at most {self.config.max_tokens} fit: write a shorter text"
            )
        return Prompt(draft.ids, draft.labels)
