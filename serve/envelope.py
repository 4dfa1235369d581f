"""OpenAI's error envelope and request ids; light enough for Ray Serve's HTTP proxy."""

import json
import re
import uuid
from typing import Any

REQUEST_ID = "x-request-id"
QUEUE_FULL = "x-queue-full"
"""Header of a gateway's answer that says that it refuses all edits now; clients do not get to see it."""
ROOM = "x-room"
"""Header of a gateway's answer to an edit: its id, and how many edits like the last ones it would still admit."""
DEADLINE = "x-request-deadline"
"""Header between proxy and gateway: seconds of `time.time()` after which the client does not wait."""
TIMEOUT = "x-request-timeout-seconds"
RETRY_AFTER_S = 5
"""Seconds after which a client should try again if nothing better is known."""
NO_RETRY = {"x-should-retry": "false"}
"""Header that keeps OpenAI's clients from sending a failed edit two times more."""

_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def error_body(message: str, type: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Build the JSON body of OpenAI's error envelope."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def error_json(message: str, type: str, param: str | None = None, code: str | None = None) -> bytes:
    """Encode the envelope."""
    return json.dumps(error_body(message, type, param, code), ensure_ascii=False).encode("utf-8", "replace")


def safe_id(found: str | None) -> str:
    """Keep a client's request id if it is 1 to 64 letters, digits, dots, dashes and underscores, else make one."""
    return found if found and _SAFE_ID.fullmatch(found) else str(uuid.uuid4())


def timeout_s(found: str) -> float:
    """Read a client's `x-request-timeout-seconds`.

    Raises:
        ValueError: no number of seconds above 0.
    """
    seconds = float(found) if re.fullmatch(r"[0-9]{1,10}(\.[0-9]{0,9})?", found) else 0.0
    if seconds <= 0:
        raise ValueError(f"{TIMEOUT}: found {found[:40]!r}; write a number of seconds above 0, such as 30")
    return seconds
