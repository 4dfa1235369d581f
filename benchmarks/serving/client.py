"""HTTP/1.1 client over one socket a request, which knows when the last byte went out and the first came in."""

import asyncio
import base64
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from fireedit.platform.images import decode

EDITS = "/v1/images/edits"
BOUNDARY = "fireedit-bench"
TIMEOUT_S = 600.0
"""Seconds that OpenAI's client waits for an answer."""
RETRIED = (408, 409, 429)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0
"""Waits of OpenAI's client between its attempts, without a Retry-After."""


@dataclass(frozen=True)
class Answer:
    """Response, or the lack of one: status 0."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    seconds: float = 0.0
    """From the first attempt to connect to the last byte of the response."""
    waited_s: float = 0.0
    """From the last byte of the request to the first of the response."""
    failure: str = ""
    """Kind of the failure if there is no response: refused, reset or timeout."""

    @property
    def outcome(self) -> str:
        return str(self.status) if self.status else self.failure

    @property
    def error(self) -> dict[str, Any] | None:
        """Error of OpenAI's envelope; None if the body is anything else."""
        try:
            error = json.loads(self.body)["error"]
            return error if set(error) == {"message", "type", "param", "code"} else None
        except (ValueError, LookupError, TypeError):
            return None

    @property
    def in_envelope(self) -> bool:
        return self.status == 200 or self.error is not None

    @property
    def retryable(self) -> bool:
        """True for what OpenAI's client repeats, but for a bare 500: an edit may have begun."""
        if not self.status:
            return self.failure in ("refused", "reset")
        told = self.headers.get("x-should-retry")
        return told == "true" or (told is None and (self.status in RETRIED or self.status > 500))

    def pictures(self) -> list[np.ndarray]:
        """Decode the edited pictures, uint8 RGB [h, w, 3] each."""
        return [decode(base64.b64decode(item["b64_json"])) for item in json.loads(self.body)["data"]]


def form(file: bytes, fields: Mapping[str, object], filename: str = "upload") -> bytes:
    """Build the multipart body of an edit."""
    disposition = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    parts = [f'{disposition}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    head = f'{disposition}"image"; filename="{filename}"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode()
    return b"".join([*parts, head, file, f"\r\n--{BOUNDARY}--\r\n".encode()])


def request(method: str, path: str, body: bytes = b"", headers: Mapping[str, object] | None = None) -> bytes:
    """Build a whole request, on a connection that ends with it."""
    multipart = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": len(body)}
    lines = {"Host": "localhost", "Connection": "close", **(multipart if method == "POST" else {}), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def send(url: str, data: bytes, timeout_s: float = TIMEOUT_S) -> Answer:
    """Send the bytes of a request; returns the response or the kind of failure."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s), connection(url) as (reader, writer):
            writer.write(data)
            with contextlib.suppress(ConnectionError):  # an early answer may already be there to be read
                await writer.drain()
            sent = time.monotonic()
            head = await reader.readuntil(b"\r\n\r\n")
            waited = time.monotonic() - sent
            status, headers = _parse(head)
            body = b"" if data.startswith(b"HEAD") else await _body(reader, headers)
            return Answer(status, headers, body, time.monotonic() - began, waited)
    except TimeoutError:
        failure = "timeout"
    except ConnectionRefusedError:
        failure = "refused"
    except (OSError, EOFError, asyncio.IncompleteReadError):
        failure = "reset"
    return Answer(0, seconds=time.monotonic() - began, failure=failure)


async def get(url: str, path: str, timeout_s: float = 30.0) -> Answer:
    return await send(url, request("GET", path), timeout_s)


async def send_until_answered(url: str, data: bytes, patience_s: float, retries: int | None = None) -> list[Answer]:
    """Repeat a request as OpenAI's client does, but for `patience_s` seconds; returns the answers of all attempts.

    Args:
        retries: attempts after the first; None leaves their number unbounded.
    """
    deadline, answers = time.monotonic() + patience_s, list[Answer]()
    while True:
        answers.append(await send(url, data, timeout_s=max(1.0, deadline - time.monotonic())))
        wait = _wait_s(answers[-1], len(answers))
        tried = retries is not None and len(answers) > retries
        if not answers[-1].retryable or tried or time.monotonic() + wait > deadline:
            return answers
        await asyncio.sleep(wait)


@contextlib.asynccontextmanager
async def connection(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a socket and close it at once at the end, whatever was sent."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ")[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        chunks = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            chunks.append(await reader.readexactly(size))
            await reader.readexactly(2)
        return b"".join(chunks)
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read()


def _wait_s(answer: Answer, attempts: int) -> float:
    with contextlib.suppress(KeyError, ValueError):
        return min(float(answer.headers["retry-after"]), 120.0)
    return min(FIRST_WAIT_S * 2 ** (attempts - 1), LONGEST_WAIT_S) * (1 - random.random() / 4)
