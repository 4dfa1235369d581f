"""Pages for people: the studio at /studio, from files held in memory, and the description of the API."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from fireedit.serve import openapi

FOLDER = Path(__file__).parent / "studio"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
"""Media type of every kind of file that is served; others are not."""
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; script-src 'self'; style-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class Page:
    """File as it is served."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> "Page":
        content = path.read_bytes()
        return cls(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    async def respond(self, request: Request) -> Response:
        """Answer with the file, or 304 if the browser has it."""
        headers = HEADERS | {"etag": self.etag}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def routes(described: openapi.Schema) -> list[BaseRoute]:
    """Make the routes of all pages.

    Args:
        described: OpenAPI document.
    """

    async def document(request: Request) -> Response:
        return JSONResponse(described)

    async def docs(request: Request) -> Response:
        return HTMLResponse(page)

    page = openapi.page(described)
    return [Route("/openapi.json", document), Route("/docs", docs), *studio_routes()]


def studio_routes(folder: Path = FOLDER) -> list[BaseRoute]:
    """Make a route for every file: index.html at /studio, the others below it.

    All addresses in them are relative, so that the service may be mounted below a path.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in MEDIA_TYPES]
    pages = {f"/studio/{path.relative_to(folder).as_posix()}": Page.read(path) for path in files}
    pages["/studio"] = pages.pop("/studio/index.html")
    return [
        *(Route(path, page.respond) for path, page in pages.items()),
        Route("/studio/", _to_the_page),
    ]


async def _to_the_page(request: Request) -> Response:
    return RedirectResponse("../studio")
