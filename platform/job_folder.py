"""Folder of a job that can be interrupted: the settings that its files depend on, which a later start must share."""

import json
from collections.abc import Mapping
from typing import Any

from fireedit.platform import storage

SETTINGS = "edit.json"


class JobFolderError(ValueError):
    """The folder holds the pictures of another job."""


def require_settings(out: str, settings: Mapping[str, Any], results: str) -> bool:
    """Compare settings with those of the folder's job; returns false if the folder has none yet.

    Args:
        results: folder in it that no job may have without settings.
    Raises:
        JobFolderError: they differ, or the folder has pictures of something else.
    """
    path = storage.join(out, SETTINGS)
    if not storage.exists(path):
        if storage.names(storage.join(out, results)):
            raise JobFolderError(f"{out} has {results}/ and no {SETTINGS}; write another --out")
        return False
    recorded = json.loads(storage.read_bytes(path))
    for key, value in settings.items():
        if recorded.get(key) != value:
            raise JobFolderError(
                f"{out}: the pictures there were made with {key} {recorded.get(key)!r}, not {value!r}; "
                "write another --out or the same settings"
            )
    return True


def save_settings(out: str, settings: Mapping[str, Any]) -> None:
    storage.write_bytes(storage.join(out, SETTINGS), json.dumps(settings, indent=1).encode())
