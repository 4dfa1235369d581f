"""Unpickling a file of others without running it: plain containers, strings and numbers, and nothing imported."""

import io
import pickle
from typing import Any

from fireedit.platform import storage
from fireedit.platform.data.corpora import rows

_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""What Python was seen to raise on damaged pickles."""


def read(path: str) -> Any:
    """What the pickle file at `path` holds; strings of Python 2 are taken for UTF-8.

    Raises:
        CorpusError: it wants to import something, or is damaged.
    """
    try:
        return _PlainUnpickler(storage.read_bytes(path), path).load()
    except rows.CorpusError:
        raise
    except _DAMAGE as error:
        raise rows.CorpusError(f"{path} is not a pickle: {error}; fetch it again") from None


class _PlainUnpickler(pickle.Unpickler):
    """Whatever is called during unpickling must be imported first, so that refusing imports refuses code."""

    def __init__(self, data: bytes, path: str):
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="replace")
        self.path = path

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise rows.CorpusError(
            f"{self.path} tries to import {module_name}.{global_name}, refused: only lists, dicts, tuples, strings and "
            "numbers are taken; fetch the published file"
        )
