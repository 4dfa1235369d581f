"""Bodies of requests, multipart or JSON, read in a bounded time and bounded memory, of all requests together."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from fireedit.serve.errors import Refused, SlowBody
from fireedit.serve.fields import FORMATS, Form
from fireedit.serve.json_body import hugging_face_form, json_form
from fireedit.serve.schema import BadRequest, LimitsConfig, too_many_bytes

TEXT_SIZE = 1_000_000
"""Bytes for texts, headers and boundaries beside the image."""
MAX_FILES, MAX_FIELDS = 17, 100
"""Parts of a form: OpenAI's 16 images and a mask, and more texts than clients send."""
GRACE_S = 5.0
"""Seconds before the least rate counts."""


@dataclass
class Bodies:
    """Bytes of all bodies that one gateway holds, received or announced."""

    limits: LimitsConfig
    held: int = 0
    reading: int = 0
    """Bodies that are not complete."""

    @contextmanager
    def hold(self) -> Iterator["Body"]:
        """Account for one body until its request is answered."""
        body = Body(self)
        self.reading += 1
        try:
            yield body
        finally:
            body.end()
            self.held -= body.held


@dataclass(eq=False)
class Body:
    """Bytes of one body."""

    bodies: Bodies
    held: int = 0
    """Bytes counted in `bodies`: the announced length, or more if more was received."""
    received: int = 0
    ended: bool = False
    most: int = 0
    """Bytes that it may have: by default those of an image and TEXT_SIZE."""

    def __post_init__(self) -> None:
        self.most = self.most or self.bodies.limits.max_image_bytes + TEXT_SIZE

    def end(self) -> None:
        """Tell that the body is read, or given up."""
        self.bodies.reading -= not self.ended
        self.ended = True

    def add(self, count: int) -> None:
        """Count received bytes."""
        self.received += count
        self.announce(self.received)

    def announce(self, length: int) -> None:
        """Count the bytes that this body will have.

        Raises:
            BadRequest: too many for one image.
            Refused: too many with those of the other requests.
        """
        bodies, limits = self.bodies, self.bodies.limits
        if length > self.most:
            raise too_many_bytes(limits)
        more = max(0, length - self.held)
        if bodies.held and bodies.held + more > limits.max_bodies_bytes:
            raise Refused("too_many_bytes", "the server holds as many bytes of images as it may")
        bodies.held, self.held = bodies.held + more, self.held + more


async def read_form(request: Request, body: Body) -> Form:
    """Read a multipart or a JSON body within its time.

    Raises:
        BadRequest: the body is neither, or broken, too long, or holds text that is not UTF-8.
        Refused: other bodies leave no room for this one.
        SlowBody: it did not arrive in time.
    """
    content_type = request.headers.get("content-type", "none").lower()
    if content_type.startswith("multipart/form-data"):
        return await _read_multipart(request, body)
    if content_type.partition(";")[0].strip() == "application/json":
        return await asyncio.to_thread(json_form, await read_whole(request, body))
    message = f"Content-Type: found {content_type[:80]!r}; send multipart/form-data or application/json"
    raise BadRequest(message, code="unsupported_content_type")


async def read_hugging_face_form(request: Request, body: Body) -> Form:
    """Read a body of Hugging Face's client, and from its Accept the format of the answer; raises as `read_form`."""
    data = await read_whole(request, body)
    form = await asyncio.to_thread(hugging_face_form, request.headers.get("content-type", ""), data)
    accepted = request.headers.get("accept", "").lower()
    wanted = next((name for name in FORMATS if f"image/{name}" in accepted), FORMATS[0])
    return Form({"output_format": wanted, **form.texts, "n": "1", "stream": "false"}, form.files)


async def read_whole(request: Request, body: Body) -> bytes:
    """Read a body that holds a picture in base64, or nothing else, within its time; raises as `read_form`."""
    body.most = body.most * 4 // 3
    _announce(request, body)
    async with _in_time(request, body) as received:
        return b"".join([chunk async for chunk in received])


async def _read_multipart(request: Request, body: Body) -> Form:
    parser = _parser(request, body)
    try:
        async with _in_time(request, body) as parser.stream:
            parts = await parser.parse()
    except MultiPartException as error:
        message = f"the multipart form cannot be read ({error.message.rstrip('.')}); send it whole"
        raise BadRequest(message, code="invalid_form") from None
    texts: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    try:
        for raw_name, part in parts.multi_items():
            if not isinstance(part, UploadFile):
                name = _utf8(raw_name, None)
                texts[name] = _utf8(part, name)
            elif part.size or part.filename:  # browsers send an unfilled file field as a nameless, empty file
                files.setdefault(_utf8(raw_name, None), []).append(await part.read())
    finally:
        await parts.close()
    return Form(texts, files)


@asynccontextmanager
async def _in_time(request: Request, body: Body) -> AsyncGenerator[AsyncGenerator[bytes, None]]:
    """Give the stream of the body, whose end is the end of the block.

    Raises:
        SlowBody: it did not arrive in time.
    """
    try:
        async with asyncio.timeout(GRACE_S) as timeout:
            yield _received(request, body, timeout)
    except TimeoutError:
        limits = body.bodies.limits
        rate, most_s = limits.min_body_bytes_per_s, limits.body_timeout_s
        message = f"the body came too slowly; send at least {rate:,} bytes a second, and all within {most_s:g} seconds"
        raise SlowBody(message) from None
    finally:
        body.end()


def _announce(request: Request, body: Body) -> None:
    if (length := request.headers.get("content-length", "")).isascii() and length.isdecimal():
        body.announce(int(length[:19]))


def _parser(request: Request, body: Body) -> MultiPartParser:
    """Build the parser; it is told Latin-1, which keeps every byte, as it would guess at broken UTF-8."""
    _announce(request, body)
    headers = Headers({"content-type": f"{request.headers['content-type']}; charset=latin-1"})
    parser = MultiPartParser(headers, request.stream(), max_files=MAX_FILES, max_fields=MAX_FIELDS)
    parser.max_part_size = TEXT_SIZE
    parser.spool_max_size = body.bodies.limits.max_image_bytes + TEXT_SIZE  # in memory, which is bounded in sum
    return parser


async def _received(request: Request, body: Body, timeout: asyncio.Timeout) -> AsyncGenerator[bytes, None]:
    """Stream the body up to the limits; each piece earns the next one its time."""
    limits, start = body.bodies.limits, asyncio.get_running_loop().time()
    async for chunk in request.stream():
        body.add(len(chunk))
        allowed_s = GRACE_S + body.received / limits.min_body_bytes_per_s
        timeout.reschedule(start + min(allowed_s, limits.body_timeout_s))
        yield chunk


def _utf8(latin: str, name: str | None) -> str:
    """Decode bytes that were read as Latin-1."""
    try:
        return latin.encode("latin-1").decode()
    except UnicodeError:
        message = f"{name or 'a field'}: found bytes that are not UTF-8; send UTF-8"
        raise BadRequest(message, name, "invalid_encoding") from None
