"""The door: HTTP in and out, OpenAI's images API. It knows no model, so that it starts fast and scales cheaply."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse

from fireedit.serve.errors import LOST, Busy, answer_errors, unavailable
from fireedit.serve.form import read_form
from fireedit.serve.schema import EditAnswer, Edited, EditRequest, LimitsConfig

logger = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 5.0
ATTEMPTS = 3
"""An edit whose replica died is tried again: it has a seed, so nothing of it can happen twice."""

api = FastAPI(title="FireEdit", docs_url=None, redoc_url=None, openapi_url=None)
answer_errors(api)


@serve.ingress(api)  # pickles the routes here and now: no route may call a function that this file defines below
class Gateway:
    """Checks each request, sends it through detector, VLM and UNet, and encodes what comes back."""

    def __init__(
        self,
        detector: DeploymentHandle,
        vlm: DeploymentHandle,
        unet: DeploymentHandle,
        limits: LimitsConfig,
        model_name: str,
    ):
        self.detector, self.vlm, self.unet = detector, vlm, unet
        self.limits, self.model_name, self.started = limits, model_name, int(time.time())
        self.under_way = 0

    @api.post("/v1/images/edits")
    async def edit(self, request: Request) -> JSONResponse:
        with self._admitted():
            form = await read_form(request, self.limits)
            asked = await asyncio.to_thread(EditRequest.from_form, form, self.limits)
            edited = await self._edit_in_spite_of_deaths(asked)
            answer = await asyncio.to_thread(EditAnswer.of, asked, edited)
            return JSONResponse(answer.body())

    @api.get("/v1/models")
    async def models(self) -> JSONResponse:
        model = {"id": self.model_name, "object": "model", "created": self.started, "owned_by": "fireedit"}
        return JSONResponse({"object": "list", "data": [model]})

    @api.get("/health")
    async def health(self) -> JSONResponse:
        """200 if every part answers soon, else 503 with the names of those that do not."""
        parts = {"detector": self.detector, "vlm": self.vlm, "unet": self.unet}
        answered = await asyncio.gather(*(self._answers(part) for part in parts.values()))
        silent = [name for name, ok in zip(parts, answered, strict=True) if not ok]
        if silent:
            return unavailable(f"no answer from {', '.join(silent)}")
        return JSONResponse({"status": "ok"})

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Counted here: a deployment looks at its queue before what is handed on to it has come, so before it fills."""
        if self.under_way >= self.limits.max_edits:
            raise Busy
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def _answers(self, part: DeploymentHandle) -> bool:
        try:
            return await asyncio.wait_for(part.ready.remote(), HEALTH_TIMEOUT_S)
        except BackPressureError:  # busy is not broken
            return True
        except (TimeoutError, RayError, RayServeException):
            return False

    async def _edit(self, asked: EditRequest) -> Edited:
        """What is not awaited here goes from replica to replica and never through this process."""
        percepts = self.detector.propose.remote(asked.image)
        edit_tokens = self.vlm.understand.remote(percepts, asked.prompt)
        return await self.unet.edit.remote(asked.image, percepts, edit_tokens, asked.settings, asked.seeds)

    async def _edit_in_spite_of_deaths(self, asked: EditRequest) -> Edited:
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._edit(asked)
            except BackPressureError:
                raise
            except LOST as error:
                logger.warning("an edit is tried again: %s", type(error).__name__)
        return await self._edit(asked)
