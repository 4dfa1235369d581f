"""Exception handlers that answer every failed request in OpenAI's error envelope."""

import logging
from typing import Any

from fastapi.exceptions import RequestValidationError
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from fireedit.serve.schema import BadRequest, error_body

logger = logging.getLogger(__name__)

LOST = (RayActorError, ObjectLostError, RayServeException)
"""Errors of a lost replica: the one called, the owner of an argument, or (RayServeException) one upstream."""
RETRY_AFTER_S = 5
_RETRY = {"retry-after": str(RETRY_AFTER_S)}
_NO_RETRY = {"x-should-retry": "false"}
"""Header that keeps OpenAI's clients from sending a failed edit two times more."""


class Busy(Exception):
    """Too many edits are in flight."""


def unavailable(message: str) -> JSONResponse:
    """Answer 503 with Retry-After."""
    return JSONResponse(error_body(message, "server_error", code="unavailable"), 503, _RETRY)


def _bad_request(request: Request, error: Exception) -> JSONResponse:
    cause = error.cause if isinstance(error, RayTaskError) else error
    assert isinstance(cause, BadRequest), cause
    return JSONResponse(error_body(cause.message, "invalid_request_error", cause.param, cause.code), 400)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError), error
    first = error.errors()[0]
    param = ".".join(map(str, first["loc"]))
    return JSONResponse(error_body(f"{param}: {first['msg']}", "invalid_request_error", param, "invalid_value"), 400)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException), error
    message = f"{request.method} {request.url.path}: {error.detail}; edits go to POST /v1/images/edits"
    code = str(error.detail).lower().replace(" ", "_")
    body = error_body(message, "invalid_request_error", code=code)
    return JSONResponse(body, error.status_code, error.headers)


def _busy(request: Request, error: Exception) -> JSONResponse:
    message = f"too many edits are in flight; try again in {RETRY_AFTER_S} seconds"
    return JSONResponse(error_body(message, "rate_limit_error", code="too_many_requests"), 429, _RETRY)


def _unavailable(request: Request, error: Exception) -> JSONResponse:
    logger.error("request %s found no replica: %s", request_id(request), error)
    return unavailable(f"a deployment is being restarted; try again in {RETRY_AFTER_S} seconds")


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("request %s failed", request_id(request), exc_info=error)
    message = f"the server failed; its log has the reason under request {request_id(request)}"
    return JSONResponse(error_body(message, "server_error", code="internal_error"), 500, _NO_RETRY)


def request_id(request: Request) -> str:
    """Id that Ray Serve's proxy gives every request and returns in every response."""
    return request.headers.get("x-request-id", "unknown")


HANDLERS: dict[Any, Any] = {
    BadRequest: _bad_request,
    RequestValidationError: _invalid,
    HTTPException: _http,
    Busy: _busy,
    BackPressureError: _busy,
    **dict.fromkeys(LOST, _unavailable),
    Exception: _unexpected,
}
"""Handler by exception; a Ray task's error is also an instance of the class raised in the task."""
