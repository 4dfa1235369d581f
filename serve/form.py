"""Multipart forms, read without ever holding more of the body than the limits allow."""

from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from fireedit.serve.schema import BadRequest, Form, LimitsConfig, too_many_bytes

TEXT_SIZE = 1_000_000
"""Bytes for texts, headers and boundaries beside the image."""
MAX_FILES, MAX_FIELDS = 17, 100
"""Parts of a form: OpenAI's 16 images and a mask, and more texts than clients send."""


async def read_form(request: Request, limits: LimitsConfig) -> Form:
    """Parse the body; a file of more than a megabyte is spooled to disk until it is complete.

    Raises:
        BadRequest: the body is no multipart form, a broken one, or too long.
    """
    content_type = request.headers.get("content-type", "none")
    if not content_type.lower().startswith("multipart/form-data"):
        raise BadRequest(
            f"Content-Type: found {content_type[:80]!r}; send multipart/form-data", code="unsupported_content_type"
        )
    body = _capped(request, limits)
    parser = MultiPartParser(request.headers, body, max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=TEXT_SIZE)
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
    """Stream the body up to the limit; its Content-Length may be absent or wrong."""
    max_bytes, received = limits.max_image_bytes + TEXT_SIZE, 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise too_many_bytes(limits)
        yield chunk
