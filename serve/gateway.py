"""HTTP gateway with OpenAI's images API. It imports no model, so that it starts fast and scales on CPUs."""

import asyncio
import ipaddress
import math
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import ray
from ray import serve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fireedit.serve import metrics
from fireedit.serve.admission import Admission, work_units
from fireedit.serve.answer import edit_body, encoded_results, timing_headers
from fireedit.serve.envelope import DEADLINE, REQUEST_ID, ROOM, TIMEOUT, safe_id, timeout_s
from fireedit.serve.errors import Refused, Unauthorized, answer_http, answer_to, unavailable
from fireedit.serve.fields import Form, read_request
from fireedit.serve.flow import Flow, Readiness
from fireedit.serve.form import Bodies, read_form
from fireedit.serve.keys import VARIABLE, Keys, KeysConfig, KeysError
from fireedit.serve.prompts import ServedModel
from fireedit.serve.record import Record
from fireedit.serve.replica_port import bind_to_node_address
from fireedit.serve.schema import BadRequest, DeadlineExceeded, Edited, EditJob, EditRequest, LimitsConfig
from fireedit.serve.stage import Stages

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
        self.readiness.watch()
        return self.app()

    def app(self) -> Starlette:
        """Build the ASGI application; Starlette lets HEAD do where GET does."""
        routes = [
            Route("/v1/images/edits", self.edit, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{name}", self.model),
            Route("/health", self.health),
            Route("/ready", self.ready),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: answer_http})
        app.router.redirect_slashes = False
        return app

    async def edit(self, http: Request) -> Response:
        """Answer an edit, whatever happens to it, and write its line into the log."""
        with Record(safe_id(http.headers.get(REQUEST_ID))) as record:
            try:
                response = await self._answer_edit(http, record)
                record.answered(response)
            except Exception as error:
                response = answer_to(error, record.request_id)
                record.answered(response, error)
            finally:
                self._show_load()
            response.headers[ROOM] = f"{self.identity} {self.admission.room}"
            return response

    async def _answer_edit(self, http: Request, record: Record) -> Response:
        """Let the request in, read its body, admit its work, edit, and encode."""
        await self.keys.check(http.headers.get("authorization"))
        self.admission.check_any()
        deadline = deadline_of(http, self.limits)
        with self.bodies.hold() as body:
            self._show_load()
            async with until(deadline):
                try:
                    form = await read_form(http, body)
                finally:
                    record.bytes_in = body.received
                with self.admission.admit(self._units(form), deadline) as place:
                    self._show_load()
                    request = await self._checked(form)
                    edited = await self.flow.edit(request, self._job(request, deadline, record), record.trace)
                    place.finish()
            return await self._answered(request, edited, record)

    async def _answered(self, request: EditRequest, edited: Edited, record: Record) -> Response:
        """Bring the results back to the source's size, large ones one after the other, and encode them."""

        def answer() -> Response:
            body = edit_body(request, edited, encoded_results(request, edited))
            return JSONResponse(body, headers=timing_headers(record.trace.times, record.trace.steps))

        pool = self.large_pictures if math.prod(request.size) * request.n > LARGE_PIXELS else None
        return await asyncio.get_running_loop().run_in_executor(pool, answer)

    def _units(self, form: Form) -> int:
        """Compute the work from the fields, before the picture is decoded."""
        settings = self.served.settings.but(**form.settings(self.limits))
        return work_units(settings, form.integer("n", 1, 1, self.limits.max_images))

    async def _checked(self, form: Form) -> EditRequest:
        """Check all fields and decode the picture, a large one after the other."""

        def check() -> EditRequest:
            longest = self.limits.max_prompt_chars
            self.served.check(form.prompt(longest), form.text("negative_prompt", longest))
            return read_request(form, self.limits, self.served.side, self.served.max_regions)

        pool = self.large_pictures if await asyncio.to_thread(is_large, form, self.limits) else None
        return await asyncio.get_running_loop().run_in_executor(pool, check)

    def _job(self, request: EditRequest, deadline: float, record: Record) -> EditJob:
        record.n = request.n
        return EditJob(
            settings=request.settings,
            seeds=request.seeds,
            reproducible=request.reproducible,
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


@asynccontextmanager
async def until(deadline: float) -> AsyncGenerator[None]:
    """Bound the time of a block.

    Raises:
        DeadlineExceeded: the deadline, in seconds of `time.time()`, passed.
    """
    try:
        async with asyncio.timeout(max(0.0, deadline - time.time())):
            yield
    except TimeoutError:
        raise DeadlineExceeded from None


def deadline_of(http: Request, limits: LimitsConfig) -> float:
    """Compute the end of the time that client and limits leave, in seconds of `time.time()`.

    Raises:
        BadRequest: the client's timeout is no number of seconds.
    """
    latest = time.time() + limits.request_timeout_s
    deadline, found = http.headers.get(DEADLINE), http.headers.get(TIMEOUT)
    try:
        if deadline is not None:  # set by the proxy's middleware, which knows the arrival
            return min(timeout_s(deadline), latest)
        return latest if found is None else min(time.time() + timeout_s(found), latest)
    except ValueError as error:
        raise BadRequest(str(error), TIMEOUT) from None


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
