"""HTTP gateway with OpenAI's images API. It imports no model, so that it starts fast and scales on CPUs."""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse

from fireedit.serve.errors import HANDLERS, LOST, Busy, unavailable
from fireedit.serve.form import read_form
from fireedit.serve.schema import Edited, EditJob, EditRequest, LimitsConfig, edit_body
from fireedit.serve.stage import Stages

logger = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 5.0
ATTEMPTS = 3
"""Attempts per edit when a replica dies; a repeated edit gives the same images, as its seed is fixed."""

api = FastAPI(title="FireEdit", docs_url=None, redoc_url=None, openapi_url=None, exception_handlers=HANDLERS)


@serve.ingress(api)  # pickles the routes at once: they may call no function that this file defines below
class Gateway:
    """Validate each request, send it through detector, VLM and UNet, and encode the result."""

    def __init__(self, stages: Stages, limits: LimitsConfig, model_name: str):
        self.stages = stages
        self.limits, self.model_name, self.started = limits, model_name, int(time.time())
        self.in_flight = 0

    @api.post("/v1/images/edits")
    async def edit(self, http_request: Request) -> JSONResponse:
        """Edit an image."""
        with self._admission():
            form = await read_form(http_request, self.limits)
            request = await asyncio.to_thread(EditRequest.from_form, form, self.limits)
            edited = await self._edit_with_retries(request)
            return JSONResponse(await asyncio.to_thread(edit_body, request, edited))

    @api.get("/v1/models")
    async def models(self) -> JSONResponse:
        """List the one model."""
        model = {"id": self.model_name, "object": "model", "created": self.started, "owned_by": "fireedit"}
        return JSONResponse({"object": "list", "data": [model]})

    @api.get("/health")
    async def health(self) -> JSONResponse:
        """200 if every deployment answers in time, else 503 with the names of those that do not."""
        deployments = self.stages.present
        ready = await asyncio.gather(*(self._is_ready(deployment) for deployment in deployments.values()))
        silent = [name for name, ok in zip(deployments, ready, strict=True) if not ok]
        if silent:
            return unavailable(f"no answer from {', '.join(silent)}")
        return JSONResponse({"status": "ok"})

    @contextmanager
    def _admission(self) -> Iterator[None]:
        """Ray Serve checks queues before upstream results arrive, so in-flight edits are counted here."""
        if self.in_flight >= self.limits.max_edits:
            raise Busy
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def _is_ready(self, deployment: DeploymentHandle) -> bool:
        try:
            return await asyncio.wait_for(deployment.ready.remote(), HEALTH_TIMEOUT_S)
        except BackPressureError:  # busy is not broken
            return True
        except (TimeoutError, RayError, RayServeException):
            return False

    async def _edit_with_retries(self, request: EditRequest) -> Edited:
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._edit(request)
            except BackPressureError:
                raise
            except LOST as error:
                logger.warning("repeating an edit after %s", type(error).__name__)
        return await self._edit(request)

    async def _edit(self, request: EditRequest) -> Edited:
        """Run the stages; tensors go from replica to replica, not through this process."""
        picture, stages, request_id = request.picture, self.stages, uuid.uuid4().hex
        canvas = ray.put(picture.canvas)
        job = EditJob(settings=request.settings, seeds=request.seeds, size=picture.size, request_id=request_id)
        detail, boxes, scores = None, np.zeros((0, 4)), np.zeros(0)
        if stages.text is not None:
            understood = await stages.text.understand.remote(request.prompt, math.inf, request_id)
        else:
            seen = await stages.detector.propose.remote(canvas, math.inf, request_id)
            detail, boxes, scores = seen.detail, seen.boxes, seen.scores
            understand = stages.vlm.understand.remote
            understood = await understand(seen.key, seen.tokens, request.prompt, math.inf, request_id)
        painted = await stages.unet.edit.remote(canvas, detail, understood.edit_tokens, job)
        return Edited(painted.images, boxes, scores)
