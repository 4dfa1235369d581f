"""Corpora whose rows are the members of one JSON object, each under the key that names it."""

import json
from typing import Any

from fireedit.platform import storage
from fireedit.platform.data.corpora import rows


def read_object(path: str, wanted: str) -> dict[str, Any]:
    """The members of a JSON file's object, in the file's order.

    Args:
        wanted: what the file should hold, `an object of edits keyed '0000', '0001', ...`, for the error.
    Raises:
        CorpusError: it is no JSON, no object or an empty one, or a key stands twice: Python would drop one in silence.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise rows.CorpusError(f"{path}: the key {twice!r} stands twice; fetch it again")
        return found

    try:
        members = json.loads(storage.read_bytes(path), object_pairs_hook=unique)
    except rows.CorpusError:
        raise
    except ValueError as error:
        raise rows.CorpusError(f"{path} is not JSON: {error}; fetch it again") from None
    if not isinstance(members, dict) or not members:
        found = "an empty object" if members == {} else f"a {type(members).__name__}"
        raise rows.CorpusError(f"{path}: found {found}; write {wanted}")
    return members
