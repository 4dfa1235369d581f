"""HTTP gateway with OpenAI's images API. It imports no model, so that it starts fast and scales on CPUs."""

import asyncio
import ipaddress
import math
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import ray
from ray import serve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fireedit.models.settings import setting_fields
from fireedit.platform.provenance import Signer, SigningConfig
from fireedit.serve import metrics, openapi, pages
from fireedit.serve.admission import Admission, work_units
from fireedit.serve.answer import Answers, timing_headers
from fireedit.serve.edits import Edits
from fireedit.serve.entry import Entry, deadline_of, until
from fireedit.serve.envelope import REQUEST_ID, ROOM, safe_id
from fireedit.serve.errors import Refused, Unauthorized, answer_http, answer_to, unavailable
from fireedit.serve.fields import Form, read_request
from fireedit.serve.flow import Flow, Readiness
from fireedit.serve.form import Bodies, Body, read_form, read_hugging_face_form
from fireedit.serve.keys import VARIABLE, Keys, KeysConfig, KeysError
from fireedit.serve.prompts import ServedModel
from fireedit.serve.record import Record
from fireedit.serve.replica_port import bind_to_node_address
from fireedit.serve.safety import SafetyCase, load_judge, refuse_unsafe
from fireedit.serve.schema import BadRequest, Edited, EditJob, EditRequest, LimitsConfig
from fireedit.serve.stage import Stages
from fireedit.serve.store import EditsConfig, Order
from fireedit.serve.streaming import EventStream, edit_events

LARGE_PIXELS = 2_000_000
"""Pixels above which pictures are decoded one at a time."""


SHOWN_LIMITS = ("max_image_bytes", "max_image_pixels", "max_output_pixels", "max_images", "max_prompt_chars")

T = TypeVar("T")
Work = Callable[[Entry, Record, ExitStack], Awaitable[Response]]
Read = Callable[[Request, Body], Awaitable[Form]]


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Terms on which a service takes edits."""

    model_name: str = "fireedit"
    """Model id in /v1/models."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    keys: KeysConfig = field(default_factory=KeysConfig)
    edits: EditsConfig = field(default_factory=EditsConfig)
    safety: str = ""
    """Function that may refuse an edit, `module:function` (see serve/safety.py); empty: none."""
    provenance: SigningConfig = field(default_factory=SigningConfig)
    """Certificate that signs results."""


class Gateway:
    """Validate each request, send it through detector, VLM and UNet, and encode the result.

    Serve's queue in front of it is as good as unbounded: `Admission` bounds it by seconds of work, once a body is
    complete, so that unfinished bodies, probes and refusals never wait behind edits.
    """

    def __init__(self, stages: Stages, served: ServedModel, config: ServiceConfig, from_zero: Sequence[str] = ()):
        """
        Args:
            from_zero: names of the stages that may have no replica.
        Raises:
            KeysError, SafetyError, SigningError: the config names a file or function that cannot be used.
        """
        self.limits, self.model_name, self.started = config.limits, config.model_name, int(time.time())
        self.served, self.keys, self.judge = served, Keys.load(config.keys), load_judge(config.safety)
        self.answers = Answers(served, Signer.load(config.provenance))
        self.admission = Admission(self.limits.max_queue_s, self.limits.unit_s, work_units(served.settings, images=1))
        self.bodies = Bodies(self.limits)
        self.identity = uuid.uuid4().hex[:8]
        self.readiness = Readiness(stages, from_zero)
        self.flow = Flow(stages, self.readiness.answered)
        self.edits = Edits(config.edits, self.keys, self.flow, self._enter_again, self._body)
        self.large_pictures = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-pictures")
        self.actor_name = ""

    async def __serve_build_asgi_app__(self) -> Starlette:
        """Start in a replica of Ray Serve, which calls this by its name.

        Raises:
            KeysError: the service would be open to strangers.
        """
        bind_to_node_address()
        controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        refuse_strangers((await controller.get_http_config.remote()).host, self.keys)
        self.actor_name = ray.get_runtime_context().get_actor_name() or ""
        self.keys.share_ledger()
        self.edits.store.share()
        self.readiness.watch()
        return self.app()

    def app(self) -> Starlette:
        """Build the ASGI application; Starlette lets HEAD do where GET does."""
        routes = [
            Route("/v1/images/edits", self.edit, methods=["POST"]),
            Route("/v1/edits", self.take, methods=["POST"]),
            *self.edits.routes(),
            Route("/models/{name}", self.edit_bare, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{name}", self.model),
            *pages.routes(openapi.document(self.model_name, self.served, self.limits)),
            Route("/health", self.health),
            Route("/ready", self.ready),
        ]
        handlers = {HTTPException: answer_http}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._live)
        app.router.redirect_slashes = False
        return app

    @asynccontextmanager
    async def _live(self, _: Starlette) -> AsyncGenerator[None]:
        """Let a replica that is to stop finish the edits that no request waits for."""
        yield
        await self.edits.drain()

    async def edit(self, http: Request) -> Response:
        """Answer an edit when it is done, or in events."""
        return await self._answer(http, self._answer_edit)

    async def edit_bare(self, http: Request) -> Response:
        """Answer an edit of Hugging Face's client with the bare picture."""
        if http.path_params["name"] != self.model_name:
            raise HTTPException(404)
        return await self._answer(http, self._answer_bare, read_hugging_face_form)

    async def take(self, http: Request) -> Response:
        """Take an edit that its client comes back for."""
        return await self._answer(http, self.edits.take)

    async def _answer(self, http: Request, work: Work, read: Read = read_form) -> Response:
        """Let an edit in and answer it, whatever happens to it, and write its line into the log.

        Args:
            work: answers; it takes over what is held for the edit if the answer does not end it.
            read: reads the body.
        """
        with ExitStack() as held:
            held.callback(self._show_load)
            record = held.enter_context(Record(safe_id(http.headers.get(REQUEST_ID))))
            try:
                response = await work(await self._let_in(http, read, record, held), record, held)
            except Exception as error:
                response = answer_to(error, record.request_id)
                record.answered(response, error)
        response.headers[ROOM] = f"{self.identity} {self.admission.room}"
        return response

    async def _let_in(self, http: Request, read: Read, record: Record, held: ExitStack) -> Entry:
        """Let a request in: check its key, read its body, admit its work and check its fields."""
        owner = await self.keys.check(http.headers.get("authorization"))
        self.admission.check_any()
        deadline = deadline_of(http, self.limits)
        body = held.enter_context(self.bodies.hold())
        self._show_load()
        async with until(deadline):
            try:
                form = await read(http, body)
            finally:
                record.bytes_in = body.received
            return await self._enter(owner, form, deadline, record, held)

    async def _enter_again(self, order: Order, record: Record, held: ExitStack) -> Entry:
        """Let in an edit that another gateway had let in."""
        held.callback(self._show_load)
        body = held.enter_context(self.bodies.hold())
        body.end()
        body.announce(order.nbytes)
        return await self._enter(order.owner, order.form, time.time() + order.timeout_s, record, held)

    async def _enter(self, owner: str, form: Form, deadline: float, record: Record, held: ExitStack) -> Entry:
        """Give an edit a place in the queue, and check all of its fields."""
        queue = held.enter_context(ExitStack())
        units = await asyncio.to_thread(self._units, form)
        place = queue.enter_context(self.admission.admit(units, deadline))
        position = self.admission.edits - 1
        self._show_load()
        request = await self._checked(form)
        job = self._job(request, deadline, record)
        steps = self.served.settings.but(**request.settings).num_inference_steps
        return Entry(owner, form, request, job, steps, position, place, queue.close)

    async def _answer_edit(self, entry: Entry, record: Record, held: ExitStack) -> Response:
        """Edit, and answer in JSON or in events."""
        if entry.request.stream:
            return EventStream(edit_events(self.flow, entry, record, self._body), record, held.pop_all())
        edited, headers = await self._edited(entry, record), _timings(record)
        response = await self._encoded(lambda *of: JSONResponse(self.answers.body(*of), headers=headers), entry, edited)
        record.answered(response)
        return response

    async def _answer_bare(self, entry: Entry, record: Record, held: ExitStack) -> Response:
        """Edit, and answer with the picture itself."""
        edited = await self._edited(entry, record)
        (file,) = await self._encoded(self.answers.files, entry, edited)
        headers = _timings(record) | {"x-fireedit-seed": str(entry.request.seed)}
        response = Response(file, headers=headers, media_type=f"image/{entry.request.output_format}")
        record.answered(response)
        return response

    async def _edited(self, entry: Entry, record: Record) -> Edited:
        async with until(entry.job.deadline):
            return await self.flow.edit(entry.request, entry.job, record.trace)

    async def _body(self, entry: Entry, edited: Edited) -> dict[str, Any]:
        """Build the JSON of an answer."""
        return await self._encoded(self.answers.body, entry, edited)

    async def _encoded(self, encode: Callable[[EditRequest, Edited, str], T], entry: Entry, edited: Edited) -> T:
        """Judge the results, bring them back to the source's size and encode them, large ones one after the other."""

        def work() -> T:
            request = entry.request
            for canvas in edited.canvases if self.judge else ():
                refuse_unsafe(
                    self.judge, SafetyCase(instruction=request.prompt, source=request.source.canvas, result=canvas)
                )
            return encode(request, edited, entry.job.request_id)

        pixels = max(math.prod(entry.request.source.size), entry.request.n * math.prod(entry.request.size))
        pool = self.large_pictures if pixels > LARGE_PIXELS else None
        encoded = await asyncio.get_running_loop().run_in_executor(pool, work)
        entry.finish()
        return encoded

    def _units(self, form: Form) -> int:
        """Compute the work from the fields and the picture's header, before the picture is decoded."""
        settings = self.served.settings.but(**form.settings(self.limits))
        n = form.integer("n", 1, 1, self.limits.max_images)
        return work_units(settings, n, n * result_pixels(form, n, self.served.side, self.limits))

    async def _checked(self, form: Form) -> EditRequest:
        """Check all fields and decode the picture, a large one after the other."""

        def check() -> EditRequest:
            longest = self.limits.max_prompt_chars
            self.served.check(form.prompt(longest), form.text("negative_prompt", longest))
            request = read_request(form, self.limits, self.served.side, self.served.max_regions)
            refuse_unsafe(self.judge, SafetyCase(instruction=request.prompt, source=request.source.canvas))
            return request

        pool = self.large_pictures if await asyncio.to_thread(is_large, form, self.limits) else None
        return await asyncio.get_running_loop().run_in_executor(pool, check)

    def _job(self, request: EditRequest, deadline: float, record: Record) -> EditJob:
        record.n = request.n
        return EditJob(
            settings=request.settings,
            seeds=request.seeds,
            reproducible=request.reproducible,
            partial_images=0 if self.judge else request.partial_images,  # it judges results alone
            deadline=deadline,
            caller=self.actor_name,
            request_id=record.request_id,
        )

    def _show_load(self) -> None:
        """Show the admitted edits in the metrics, and the bodies that are being read as waiting."""
        metrics.set_load("gateway", self.admission.edits, self.bodies.reading)

    async def models(self, http: Request) -> Response:
        """List the one model."""
        return await self._guarded(http, {"object": "list", "data": [self._model_body()]})

    async def model(self, http: Request) -> Response:
        """Describe the one model."""
        if http.path_params["name"] != self.model_name:
            raise HTTPException(404)
        return await self._guarded(http, self._model_body() | self._details())

    async def health(self, http: Request) -> Response:
        """Answer that this process runs."""
        return JSONResponse({"status": "ok"})

    async def ready(self, http: Request) -> Response:
        """Answer 200 if every stage answers or may scale from zero, else 503 with the names of the others."""
        if missing := self.readiness.missing():
            return unavailable(f"no answer from {', '.join(missing)}")
        return JSONResponse({"status": "ok"})

    async def _guarded(self, http: Request, body: dict[str, object]) -> Response:
        """Answer a caller who has a key."""
        try:
            await self.keys.check(http.headers.get("authorization"))
        except (Unauthorized, Refused) as error:
            return answer_to(error, "")
        return JSONResponse(body)

    def _model_body(self) -> dict[str, object]:
        return {"id": self.model_name, "object": "model", "created": self.started, "owned_by": "fireedit"}

    def _details(self) -> dict[str, object]:
        """Describe what an edit may ask for, for programs that show it to people."""
        settings = [
            {
                "name": each.name,
                "type": openapi.TYPES[each.type],
                "default": getattr(self.served.settings, each.name),
                "minimum": each.minimum,
                "maximum": each.maximum if math.isfinite(each.maximum) else None,
                "description": each.help,
            }
            for each in map(self.limits.narrow, setting_fields())
        ]
        limits = {name: value for name, value in asdict(self.limits).items() if name in SHOWN_LIMITS}
        return {"canvas": self.served.side, "settings": settings, "limits": limits}


GatewayDeployment = serve.ingress()(Gateway)
"""Gateway as a class that Ray Serve can deploy."""


def _timings(record: Record) -> dict[str, str]:
    return timing_headers(record.trace.times, record.trace.steps)


def result_pixels(form: Form, n: int, side: int, limits: LimitsConfig) -> int:
    """Read the size of one result; a wrong one is for `read_request` to report."""
    try:
        _, header = form.picture(limits)
        return math.prod(form.size(header.size, side, n, limits))
    except BadRequest:
        return 0


def is_large(form: Form, limits: LimitsConfig) -> bool:
    """Read the size of the form's picture; a wrong one is for `read_request` to report."""
    try:
        _, header = form.picture(limits)
    except BadRequest:
        return False
    return math.prod(header.size) > LARGE_PIXELS


def refuse_strangers(host: str | None, keys: Keys) -> None:
    """Raise KeysError if a service without keys would listen on more than loopback."""
    try:
        is_local = host in (None, "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not is_local and not keys:
        message = f"http_options.host is {host}, which strangers may reach, and there is no API key"
        raise KeysError(f"{message}; set keys.file or {VARIABLE} (see fireedit.serve.keys), or bind to 127.0.0.1")
