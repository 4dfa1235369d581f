"""Reads a multipart body without ever holding more of it than the limits allow."""

from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from fireedit.serve.schema import BadRequest, Form, LimitsConfig, too_many_bytes

ROOM = 1_000_000
"""Bytes for all that is not the picture: texts, headers and boundaries."""
MAX_FILES, MAX_FIELDS = 17, 100
"""OpenAI's 16 pictures and a mask; more texts than any client sends."""


async def read_form(request: Request, limits: LimitsConfig) -> Form:
    """Take the body apart; a picture of more than a megabyte waits on the disk until it is complete.

    Raises:
        BadRequest: no multipart form, a broken one, or more bytes than a picture may have.
    """
    kind = request.headers.get("content-type", "none")
    if not kind.lower().startswith("multipart/form-data"):
        raise BadRequest(
            f"Content-Type: found {kind[:80]!r}; send multipart/form-data", code="unsupported_content_type"
        )
    body = _capped(request, limits)
    parser = MultiPartParser(request.headers, body, max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=ROOM)
    try:
        parts = await parser.parse()
    except MultiPartException as error:
        message = f"the multipart form cannot be read ({error.message.rstrip('.')}); send it whole"
        raise BadRequest(message, code="invalid_form") from None
    texts: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    try:
        for name, part in parts.multi_items():
            if isinstance(part, UploadFile):
                files.setdefault(name, []).append(await part.read())
            else:
                texts[name] = part
    finally:
        await parts.close()
    return Form(texts, files)


async def _capped(request: Request, limits: LimitsConfig) -> AsyncGenerator[bytes, None]:
    """The body, given up once it is too long, whatever its Content-Length said."""
    most, found = limits.max_image_bytes + ROOM, 0
    async for chunk in request.stream():
        found += len(chunk)
        if found > most:
            raise too_many_bytes(limits)
        yield chunk
