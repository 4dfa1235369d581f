"""HTTP gateway with OpenAI's images API. It imports no model, so that it starts fast and scales on CPUs."""

import asyncio
import ipaddress
import math
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import ray
from ray import serve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fireedit.serve import metrics
from fireedit.serve.admission import Admission, work_units
from fireedit.serve.edits import Edits
from fireedit.serve.entry import MAX_PARTIALS, Entry, deadline_of, until
from fireedit.serve.envelope import REQUEST_ID, ROOM, safe_id
from fireedit.serve.errors import Refused, Unauthorized, answer_http, answer_to, unavailable
from fireedit.serve.flow import Flow, Readiness
from fireedit.serve.form import Bodies, read_form
from fireedit.serve.keys import VARIABLE, Keys, KeysConfig, KeysError
from fireedit.serve.prompts import ServedModel
from fireedit.serve.record import Record
from fireedit.serve.replica_port import bind_to_node_address
from fireedit.serve.schema import BadRequest, Edited, EditJob, EditRequest, Form, LimitsConfig, edit_body
from fireedit.serve.stage import Stages
from fireedit.serve.store import EditsConfig, Order
from fireedit.serve.streaming import EventStream, edit_events

LARGE_PIXELS = 2_000_000
"""Pixels above which pictures are decoded one at a time."""


class Gateway:
    """Validate each request, send it through detector, VLM and UNet, and encode the result.

    Serve's queue in front of it is as good as unbounded: `Admission` bounds it by seconds of work, once a body is
    complete, so that unfinished bodies, probes and refusals never wait behind edits.
    """

    def __init__(
        self,
        stages: Stages,
        limits: LimitsConfig,
        keys: KeysConfig,
        served: ServedModel,
        model_name: str,
        from_zero: Sequence[str] = (),
        edits: EditsConfig | None = None,
    ):
        """
        Args:
            from_zero: names of the stages that may have no replica.
        """
        self.limits, self.model_name, self.started = limits, model_name, int(time.time())
        self.served, self.keys = served, Keys.load(keys)
        self.admission, self.bodies = (
            Admission(limits.max_queue_s, limits.unit_s, work_units(served.settings, images=1)),
            Bodies(limits),
        )
        self.identity = uuid.uuid4().hex[:8]
        self.readiness = Readiness(stages, from_zero)
        self.flow = Flow(stages, self.readiness.answered)
        self.edits = Edits(edits or EditsConfig(), self.keys, self.flow, self._enter_again, self._body)
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
            Route("/v1/models", self.models),
            Route("/v1/models/{name}", self.model),
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

    async def take(self, http: Request) -> Response:
        """Take an edit that its client comes back for."""
        return await self._answer(http, self.edits.take)

    async def _answer(self, http: Request, work: Callable[[Entry, Record, ExitStack], Awaitable[Response]]) -> Response:
        """Let an edit in and answer it, whatever happens to it, and write its line into the log.

        Args:
            work: answers; it takes over what is held for the edit if the answer does not end it.
        """
        with ExitStack() as held:
            held.callback(self._show_load)
            record = held.enter_context(Record(safe_id(http.headers.get(REQUEST_ID))))
            try:
                response = await work(await self._let_in(http, record, held), record, held)
            except Exception as error:
                response = answer_to(error, record.request_id)
                record.answered(response, error)
        response.headers[ROOM] = f"{self.identity} {self.admission.room}"
        return response

    async def _let_in(self, http: Request, record: Record, held: ExitStack) -> Entry:
        """Let a request in: check its key, read its body, admit its work and check its fields."""
        owner = await self.keys.check(http.headers.get("authorization"))
        self.admission.check_any()
        deadline = deadline_of(http, self.limits)
        body = held.enter_context(self.bodies.hold())
        self._show_load()
        async with until(deadline):
            try:
                form = await read_form(http, body)
            finally:
                record.bytes_in = body.received
            return await self._enter(owner, form, deadline, record, held)

    async def _enter_again(self, order: Order, record: Record, held: ExitStack) -> Entry:
        """Let in an edit that another gateway had let in."""
        body = held.enter_context(self.bodies.hold())
        body.end()
        body.announce(order.nbytes)
        return await self._enter(order.owner, order.form, time.time() + order.timeout_s, record, held)

    async def _enter(self, owner: str, form: Form, deadline: float, record: Record, held: ExitStack) -> Entry:
        """Give an edit a place in the queue, and check all of its fields."""
        queue = held.enter_context(ExitStack())
        place = queue.enter_context(self.admission.admit(self._units(form), deadline))
        position = self.admission.edits - 1
        self._show_load()
        stream, partials = form.flag("stream"), form.integer("partial_images", 0, 0, MAX_PARTIALS)
        request = await self._checked(form)
        job = self._job(request, deadline, record, partials)
        steps = self.served.settings.but(**request.settings).num_inference_steps
        return Entry(owner, form, request, job, stream, steps, position, place, queue.close)

    async def _answer_edit(self, entry: Entry, record: Record, held: ExitStack) -> Response:
        """Edit, and encode the result."""
        if entry.stream:
            return EventStream(edit_events(self.flow, entry, record, self._body), record, held.pop_all())
        async with until(entry.job.deadline):
            edited = await self.flow.edit(entry.request, entry.job, record.trace)
        entry.finish()
        response = JSONResponse(await self._body(entry.request, edited))
        record.answered(response)
        return response

    async def _body(self, request: EditRequest, edited: Edited) -> dict[str, Any]:
        """Encode the results, as JSON of an answer."""
        return await asyncio.to_thread(edit_body, request, edited)

    def _units(self, form: Form) -> int:
        """Compute the work from the fields, before the picture is decoded."""
        settings = self.served.settings.but(**form.settings(self.limits))
        return work_units(settings, form.integer("n", 1, 1, self.limits.max_images))

    async def _checked(self, form: Form) -> EditRequest:
        """Check all fields and decode the picture, a large one after the other."""

        def check() -> EditRequest:
            longest = self.limits.max_prompt_chars
            self.served.check(form.prompt(longest), form.text("negative_prompt", longest))
            return EditRequest.from_form(form, self.limits, self.served.side)

        pool = self.large_pictures if await asyncio.to_thread(is_large, form, self.limits) else None
        return await asyncio.get_running_loop().run_in_executor(pool, check)

    def _job(self, request: EditRequest, deadline: float, record: Record, partial_images: int) -> EditJob:
        record.n = request.n
        return EditJob(
            settings=request.settings,
            seeds=request.seeds,
            size=request.picture.size,
            reproducible=request.reproducible,
            partial_images=partial_images,
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
        return await self._guarded(http, self._model_body())

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


GatewayDeployment = serve.ingress()(Gateway)
"""Gateway as a class that Ray Serve can deploy."""


def is_large(form: Form, limits: LimitsConfig) -> bool:
    """Read the size of the form's picture; a wrong one is for `EditRequest.from_form` to report."""
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
