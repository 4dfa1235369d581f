"""The API of edits without a model, as a client sees it: for tests of the browser's side."""

import asyncio
import base64
import io
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from PIL import Image, ImageOps
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from fireedit.platform.cluster import free_port
from fireedit.serve.envelope import error_body
from fireedit.serve.pages import studio_routes

CANVAS, STEP_S = 64, 0.02
COLORS = ("#b13a0b", "#205ea8", "#1c7c3c", "#7a3fa0")
REGIONS = [
    {"box": [0.05, 0.1, 0.45, 0.5], "score": 0.93},
    {"box": [0.5, 0.4, 0.95, 0.9], "score": 0.81},
    {"box": [0.6, 0.5, 0.8, 0.7], "score": 0.52},
]
SETTINGS = [
    ("num_inference_steps", "integer", 4, 1, 1000, "denoising steps"),
    ("guidance_scale", "number", 1.0, 0, None, "strength of the guidance towards the instruction"),
    ("image_guidance_scale", "number", 1.0, 0, None, "strength of the guidance towards the source"),
    ("negative_prompt", "string", "", None, None, "unconditional prompt of the guidance"),
]
MODEL = {
    "id": "stand-in",
    "object": "model",
    "canvas": CANVAS,
    "settings": [
        dict(zip(("name", "type", "default", "minimum", "maximum", "description"), row, strict=True))
        for row in SETTINGS
    ],
    "limits": {"max_image_bytes": 4_000_000, "max_image_pixels": 4_000_000, "max_images": 4, "max_prompt_chars": 300},
}


@dataclass(eq=False)
class Edit:
    """Edit that was taken."""

    id: str
    fields: dict[str, Any]
    """Fields of the form; files as bytes."""
    status: str = "queued"
    step: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def steps(self) -> int:
        return int(self.fields.get("num_inference_steps", 4))

    def body(self) -> dict[str, Any]:
        """Return the status object."""
        position = 1 if self.status == "queued" else None
        times = {"created_at": int(time.time()), "expires_at": int(time.time()) + 600}
        progress = {"queue_position": position, "step": self.step, "steps": self.steps, "error": None}
        return {"id": self.id, "object": "edit", "status": self.status, **times, **progress}

    def move(self, status: str, step: int) -> None:
        self.status, self.step = status, step
        self.changed.set()
        self.changed = asyncio.Event()

    def picture(self, number: int) -> str:
        """Tint the source, more with every step, and encode it in base64."""
        source = Image.open(io.BytesIO(self.fields["image"])).convert("RGB")
        source = source if self.step == self.steps else source.resize((CANVAS, CANVAS))
        gray = ImageOps.colorize(ImageOps.grayscale(source), "#101018", "white", COLORS[number % len(COLORS)])
        Image.blend(source, gray, 0.6 * self.step / self.steps).save(file := io.BytesIO(), "PNG")
        return base64.b64encode(file.getvalue()).decode()

    def result(self) -> dict[str, Any]:
        """Return the answer of the edit that is done."""
        seed, n = int(self.fields.get("seed", 0)), int(self.fields.get("n", 1))
        data = [{"b64_json": self.picture(i), "revised_prompt": None, "seed": seed + i} for i in range(n)]
        return {"created": int(time.time()), "data": data, "output_format": "png", "seed": seed, "regions": REGIONS}


class StandIn:
    """Server whose progress, key and failures a test sets."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port(8200)}"
        self.reset()

    def reset(self) -> None:
        """Forget all edits and settings."""
        self.key = ""
        self.until = math.inf
        """Step at which edits stop, until it is raised; -1 leaves them in the queue."""
        self.failures: list[Response] = []
        """Answers to the next edits, in place of an edit."""
        self.edits: dict[str, Edit] = {}
        self.drops = 0
        """Event streams that end after their first event."""

    @property
    def last(self) -> dict[str, Any]:
        """Fields of the latest edit."""
        return list(self.edits.values())[-1].fields

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/models/{name}", self.models),
            Route("/v1/edits", self.start, methods=["POST"]),
            Route("/v1/edits/{id}", self.edit, methods=["GET", "DELETE"]),
            Route("/v1/edits/{id}/events", self.events),
        ]
        return Starlette(routes=[*routes, *studio_routes()])

    def refusal(self, http: Request) -> Response | None:
        if not self.key or http.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return failure(401, "no such API key", "invalid_api_key")

    async def models(self, http: Request) -> Response:
        body = MODEL if "name" in http.path_params else {"object": "list", "data": [MODEL]}
        return self.refusal(http) or JSONResponse(body)

    async def start(self, http: Request) -> Response:
        async with http.form() as form:
            fields = {name: value if isinstance(value, str) else await value.read() for name, value in form.items()}
        if refusal := self.refusal(http) or (self.failures.pop(0) if self.failures else None):
            return refusal
        edit = Edit(f"edit_{len(self.edits):08x}", fields)
        self.edits[edit.id] = edit
        self.painting = asyncio.create_task(self.paint(edit))
        return JSONResponse(edit.body(), 202, {"location": f"/v1/edits/{edit.id}"})

    async def paint(self, edit: Edit) -> None:
        for step in range(edit.steps + 1):
            await asyncio.sleep(STEP_S)
            while step > self.until and edit.status != "canceled":
                await asyncio.sleep(STEP_S)
            if edit.status == "canceled":
                return
            edit.move("completed" if step == edit.steps else "running", step)

    async def edit(self, http: Request) -> Response:
        edit = self.edits.get(http.path_params["id"])
        if refusal := self.refusal(http):
            return refusal
        if edit is None:
            return failure(404, "no such edit; it may have expired", "not_found")
        if http.method == "DELETE":
            edit.move("canceled", edit.step)
        return JSONResponse(edit.body() | ({"result": edit.result()} if edit.status == "completed" else {}))

    async def events(self, http: Request) -> Response:
        edit = self.edits.get(http.path_params["id"])
        if refusal := self.refusal(http):
            return refusal
        if edit is None:
            return failure(404, "no such edit; it may have expired", "not_found")
        return StreamingResponse(self.follow(edit), media_type="text/event-stream")

    async def follow(self, edit: Edit) -> AsyncIterator[bytes]:
        partials = int(edit.fields.get("partial_images", 0))
        while edit.status in ("queued", "running"):
            changed = edit.changed
            yield frame("edit.progress", edit.body())
            if self.drops:
                self.drops -= 1
                return
            if edit.step and partials:
                partials -= 1
                yield frame("image_edit.partial_image", {"b64_json": edit.picture(0), "output_format": "png"})
            yield b": still painting\n\n"
            await changed.wait()
        if edit.status == "canceled":
            yield frame("edit.canceled", edit.body())
            return
        common = {name: value for name, value in edit.result().items() if name != "data"}
        for index, item in enumerate(edit.result()["data"]):
            yield frame("image_edit.completed", common | item | {"output_index": index})


def frame(kind: str, data: dict[str, Any]) -> bytes:
    """Encode a server-sent event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def failure(status: int, message: str, code: str, **headers: str) -> Response:
    """Build an error in the API's envelope."""
    return JSONResponse(error_body(message, "error", None, code), status, headers)


@contextmanager
def running(standin: StandIn) -> Iterator[StandIn]:
    """Run the server in a thread."""
    port = int(standin.url.rpartition(":")[2])
    server = uvicorn.Server(uvicorn.Config(standin.app(), port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield standin
    server.should_exit = True
    thread.join()
