"""Safety: a function of the operator's that may refuse an edit before and after it is painted. Imports no torch."""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fireedit.serve.schema import BadRequest


@dataclass(frozen=True, kw_only=True)
class SafetyCase:
    """Edit that is to be judged."""

    instruction: str
    source: np.ndarray
    """Canvas, uint8 RGB [S, S, 3]."""
    result: np.ndarray | None = None
    """Edited canvas, uint8 RGB [S, S, 3]; None before the edit is painted."""


Judge = Callable[[SafetyCase], str | None]
"""Returns the reason to refuse, a sentence for the client, or None or an empty text to allow. It runs in a thread."""

WORDS = ("nude", "naked", "undress", "nsfw", "porn", "gore", "behead")
"""Small list for `words`; it finds the plainest requests only and is no substitute for a classifier."""
_WORDS = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)


class SafetyError(ValueError):
    """The configured function cannot be loaded."""


def words(case: SafetyCase) -> str | None:
    """Refuse instructions with a word of `WORDS`: `safety: fireedit.serve.safety:words`."""
    return "the instruction asks for what this service does not paint" if _WORDS.search(case.instruction) else None


def load_judge(name: str) -> Judge | None:
    """Load `module:function`; an empty name stands for none.

    Raises:
        SafetyError: there is no such function.
    """
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        judge = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"safety: cannot load {name!r} ({error}); write module:function, such as {__name__}:words"
        raise SafetyError(message) from None
    if not callable(judge):
        raise SafetyError(f"safety: {name!r} is no function; write module:function, such as {__name__}:words")
    return judge


def refuse_unsafe(judge: Judge | None, case: SafetyCase) -> None:
    """Raise BadRequest with OpenAI's code if the judge refuses; an error of the judge's own fails the request."""
    if judge is not None and (reason := judge(case)):
        raise BadRequest(f"refused by the safety check: {reason}", "prompt", "moderation_blocked")
