"""Entry of an edit into the service: its checked request, its place in the queue, and its deadline."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

from fireedit.serve.admission import Place
from fireedit.serve.envelope import DEADLINE, TIMEOUT, timeout_s
from fireedit.serve.fields import Form
from fireedit.serve.schema import BadRequest, DeadlineExceeded, EditJob, EditRequest, LimitsConfig


@dataclass(frozen=True)
class Entry:
    """Edit that was let in."""

    owner: str
    """Name of its API key; empty without keys."""
    form: Form
    request: EditRequest
    job: EditJob
    steps: int
    """Denoising steps that it takes."""
    position: int
    """Edits that were in the queue before it."""
    place: Place
    leave: Callable[[], None]
    """Gives the place back before the request ends."""

    def finish(self) -> None:
        """Give the place back after the work was done to its end, its results encoded."""
        self.place.finish()
        self.leave()


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
