"""Calls of ASGI applications without a server."""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message

BOUNDARY = "b"


@dataclass
class Answer:
    """Response of an application, and the request as the application saw it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0

    def error(self) -> dict[str, Any]:
        """Check that the body is OpenAI's envelope and return its content."""
        assert self.headers["content-type"].startswith("application/json"), self.headers
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] and error["type"] and 10 < len(error["message"]) < 300
        assert "/work" not in error["message"] and "Traceback" not in error["message"] and ".py" not in error["message"]
        return error


async def call(
    app: ASGIApp,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: Iterable[bytes] = (b"",),
    pause_s: float = 0.0,
    is_complete: bool = True,
) -> Answer:
    """Send one request.

    Args:
        body: its pieces; one at least.
        pause_s: time before each piece.
        is_complete: False never sends the end.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": raw, "root_path": "", "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1)}
    pieces, answer, begun = list(body), Answer(), time.perf_counter()

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        if not pieces:
            await asyncio.Event().wait()
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces) or not is_complete}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert not answer.status, "two answers"
            answer.status = message["status"]
            names = [name.decode().lower() for name, _ in message["headers"]]
            assert len(set(names)) == len(names), names
            answer.headers = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            answer.body += message["body"]

    await app(scope, receive, send)
    answer.seconds = time.perf_counter() - begun
    return answer


def multipart(image: bytes | None = None, /, **texts: str | bytes) -> bytes:
    """Encode a form; its Content-Type is `FORM`."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + (text if isinstance(text, bytes) else text.encode())
        for name, text in texts.items()
    ]
    if image is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="../../x"\r\n\r\n'
        parts.append(head.encode() + image)
    return b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
