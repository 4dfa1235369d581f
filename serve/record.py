"""Record of one request to edit: its line in Serve's log, and its metrics."""

import json
import logging
import time
import traceback
from types import TracebackType
from typing import Self

from ray.exceptions import RayTaskError, TaskCancelledError
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from fireedit.serve import metrics
from fireedit.serve.errors import rejection_reason
from fireedit.serve.flow import Trace

logger = logging.getLogger("ray.serve")

CANCELED = 499
"""Status in the log of a request whose client left; nginx's number."""


class Record:
    """Account of one request, as a context manager around all of its handling.

    Nothing that a client sends is in it but the request id, which is checked; errors are written as ASCII.
    """

    def __init__(self, request_id: str):
        self.request_id, self.trace = request_id, Trace()
        self.n = self.bytes_in = self.bytes_out = 0
        self.status, self.outcome = CANCELED, "canceled"
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Write the line and count the request, which is canceled if it has no answer."""
        seconds = time.monotonic() - self._began
        logger.info(json.dumps(self._line(seconds)))
        metrics.count_request(self.outcome)
        metrics.observe_request(seconds)
        metrics.count_bytes("client", "gateway", self.bytes_in)
        metrics.count_bytes("gateway", "client", self.bytes_out)

    def answered(self, response: Response, error: Exception | None = None) -> None:
        """Take note of the answer, and of the error behind it; where one of the server's own arose is logged."""
        if isinstance(error, (ClientDisconnect, TaskCancelledError)):  # the latter is Ray Serve's, while a body is read
            return
        self.status, self.bytes_out = response.status_code, len(response.body)
        self.outcome = metrics.OUTCOMES.get(self.status, "invalid")
        if error is not None and (reason := rejection_reason(error)):
            self.outcome = "rejected"
            metrics.count_rejection(reason)
        if error is not None and response.status_code == 500:
            cause = error.cause if isinstance(error, RayTaskError) else error
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("request %s failed with %a\n%s", self.request_id, repr(cause)[:300], where)

    def done(self, bytes_out: int) -> None:
        """Take note of an edit that was done, whose answer came bit by bit or is kept."""
        self.status, self.outcome, self.bytes_out = 200, metrics.OUTCOMES[200], bytes_out

    def _line(self, seconds: float) -> dict[str, object]:
        times = self.trace.times
        stages = {
            each.stage: {"queue_s": round(each.queue_s, 4), "run_s": round(each.run_s, 4), "cached": each.cached}
            for each in times
        }
        return {
            "event": "edit",
            "request_id": self.request_id,
            "outcome": self.outcome,
            "status": self.status,
            "e2e_s": round(seconds, 4),
            "queue_s": round(sum(each.queue_s for each in times), 4),
            "stages": stages,
            "attempts": self.trace.attempts,
            "steps": self.trace.steps,
            "n": self.n,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }
