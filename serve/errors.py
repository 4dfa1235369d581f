"""Errors of a request, and the answer to each in OpenAI's error envelope: no path and no traceback reaches a client."""

import math
from collections.abc import Mapping
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from fireedit.serve.envelope import NO_RETRY, QUEUE_FULL, RETRY_AFTER_S, error_body
from fireedit.serve.schema import BadRequest, DeadlineExceeded

LOST = (RayActorError, ObjectLostError, RayServeException)
"""Errors of a lost replica: the one called, the owner of an argument, or (RayServeException) one upstream."""


class Refused(Exception):
    """A request is not taken now, whatever it holds."""

    def __init__(self, reason: str, message: str, retry_after_s: float = RETRY_AFTER_S, shut: bool = False):
        super().__init__(reason, message, retry_after_s, shut)
        self.reason, self.message = reason, message
        """Label of `fireedit_rejected_total`, and a sentence for the client."""
        self.retry_after_s = max(1, math.ceil(retry_after_s))
        self.shut = shut
        """True if all edits are refused now, so that the proxy may refuse them itself for a moment."""


class Unauthorized(Exception):
    """No API key, or an unknown one."""


class SlowBody(Exception):
    """A body did not arrive in time."""


class Lost(Exception):
    """A stage was lost more often than an edit is repeated."""


class UnknownEdit(Exception):
    """No edit of this id, or one of another key."""


def answer_to(error: BaseException, request_id: str) -> JSONResponse:
    """Build the response to a failed request; an unknown error gets a 500 that names the request's log lines only."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, BadRequest):
        return _respond(400, cause.message, "invalid_request_error", cause.code, param=cause.param)
    if isinstance(cause, Unauthorized):
        challenge = {"www-authenticate": "Bearer"}
        return _respond(401, str(cause), "authentication_error", "invalid_api_key", challenge)
    if isinstance(cause, UnknownEdit):
        message = "no edit has this id; it may have been made with another key, be expired or removed"
        return _respond(404, message, "invalid_request_error", "not_found")
    if isinstance(cause, SlowBody):
        return _respond(408, str(cause), "invalid_request_error", "timeout", NO_RETRY)
    if isinstance(cause, DeadlineExceeded):
        message = "the request's timeout passed before the edit was done; allow more time or fewer steps"
        return _respond(408, message, "timeout_error", "timeout", NO_RETRY)
    if isinstance(cause, Refused):
        return _refuse(cause)
    if isinstance(cause, BackPressureError):
        return _refuse(Refused("queue_full", "a stage's queue is full"))
    if isinstance(cause, (Lost, *LOST)):
        return unavailable(f"a part of the service is being restarted; try again in {RETRY_AFTER_S} seconds")
    message = f"the server failed; its log has the reason under request {request_id}"
    return _respond(500, message, "server_error", "internal_error", NO_RETRY)


def unavailable(message: str) -> JSONResponse:
    """Answer 503 with Retry-After."""
    return _respond(503, message, "server_error", "unavailable", {"retry-after": str(RETRY_AFTER_S)})


def rejection_reason(error: BaseException) -> str:
    """Name the label of `fireedit_rejected_total` for an error; empty for one that is no refusal."""
    if isinstance(error, Refused):
        return error.reason
    if isinstance(error, SlowBody):
        return "slow_body"
    return "queue_full" if isinstance(error, BackPressureError) else ""


def answer_http(request: Request, error: Exception) -> JSONResponse:
    """Answer an unknown path or method."""
    assert isinstance(error, HTTPException), error
    message = f"{request.method[:20]} {request.url.path[:80]}: {error.detail}; edits go to POST /v1/images/edits"
    code = str(error.detail).lower().replace(" ", "_")
    return _respond(error.status_code, message, "invalid_request_error", code, error.headers)


def _refuse(refused: Refused) -> JSONResponse:
    seconds = refused.retry_after_s
    headers = {"retry-after": str(seconds)}
    if refused.shut:
        headers[QUEUE_FULL] = "1"
    if refused.reason == "quota":
        headers |= NO_RETRY
    code = "insufficient_quota" if refused.reason == "quota" else "too_many_requests"
    return _respond(429, f"{refused.message}; try again in {seconds:,} seconds", "rate_limit_error", code, headers)


def _respond(
    status: int,
    message: str,
    kind: str,
    code: str,
    headers: Mapping[str, str] | None = None,
    param: str | None = None,
) -> JSONResponse:
    body: dict[str, Any] = error_body(message, kind, param, code)
    return JSONResponse(body, status, headers)
