"""Facts of the served weights that the gateway needs, read from their small files without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

import fireedit.models.settings
from fireedit.models.settings import PaintSettings
from fireedit.models.tokens import PromptConfig, PromptError, PromptTokenizer
from fireedit.platform import storage
from fireedit.serve.schema import CANVAS_SIDE, BadRequest

NANO = Path(fireedit.models.settings.__file__).parent / "nano"


@dataclass(frozen=True)
class ServedModel:
    """Facts of the weights that requests are checked against."""

    settings: PaintSettings
    """Sampler settings of an edit that names none."""
    side: int
    """Side of the canvas, pixels."""
    prompts: PromptTokenizer | None
    """Counts the tokens of a prompt; None if the weights have no VLM or no fast tokenizer."""

    @classmethod
    def read(cls, weights: str) -> Self:
        """Read the facts of a folder that `save_pretrained` wrote, local or s3://; `nano` names the shipped one."""
        folder = str(NANO) if weights == "nano" else weights
        settings = PaintSettings(**_json(folder, "model_index.json").get("settings", {}))
        side = _json(folder, "vae", "config.json").get("sample_size", CANVAS_SIDE)
        return cls(settings, side, _prompts(folder))

    def check_prompt(self, prompt: str) -> None:
        """Raise BadRequest if the VLM cannot read the whole prompt."""
        try:
            if self.prompts is not None:
                self.prompts.edit(prompt)
        except PromptError as error:
            raise BadRequest(f"prompt: {error}", "prompt", "string_above_max_length") from None


class FastTokenizer:
    """The part of a transformers tokenizer that `PromptTokenizer` uses, without torch; for counting only."""

    bos_token_id = eos_token_id = 0

    def __init__(self, file: bytes):
        self._tokenizer = Tokenizer.from_str(file.decode())
        self._tokenizer.encode_special_tokens = True  # user text is never parsed for special tokens

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def __call__(self, text: str, **_: bool) -> "Ids":
        return Ids(self._tokenizer.encode(text, add_special_tokens=False).ids)


@dataclass(frozen=True)
class Ids:
    """Tokens of a text."""

    input_ids: list[int]


def _prompts(folder: str) -> PromptTokenizer | None:
    file = storage.join(folder, "vlm_tokenizer", "tokenizer.json")
    if not storage.exists(file):
        return None
    vlm = _json(folder, "vlm", "config.json")
    tokenizer: Any = FastTokenizer(storage.read_bytes(file))
    return PromptTokenizer(tokenizer, vlm.get("vocab_size", len(tokenizer)), PromptConfig(**vlm.get("prompt", {})))


def _json(folder: str, *names: str) -> dict[str, Any]:
    file = storage.join(folder, *names)
    return json.loads(storage.read_bytes(file)) if storage.exists(file) else {}
