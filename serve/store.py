"""Store of the edits that clients come back for; an actor of Ray where several gateways share it. Imports no torch."""

import asyncio
import inspect
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

import ray
from pydantic import Field
from ray.exceptions import RayError

from fireedit.serve.envelope import error_body
from fireedit.serve.errors import Lost
from fireedit.serve.fields import Form

LEASE_S = 5.0
"""Seconds after which an edit whose gateway has not reported is another gateway's to run."""
WAIT_S = 2.0
"""Seconds that the store waits for news of an edit before it tells that there are none."""
STORE_TIMEOUT_S = 15.0
"""Seconds for an answer of the store, which may be starting again."""
OVERHEAD_BYTES = 1_000
"""Bytes that an edit counts for beside its request and result."""
MAX_CALLS = 10_000
"""Calls that the actor takes at once: most of them wait for news."""

Status = Literal["queued", "running", "completed", "failed", "canceled"]
Verdict = Literal["run", "stop", "unknown"]
"""Answer to a report: the gateway goes on, it stops, or the store, started again, does not know the edit."""


@dataclass(frozen=True, kw_only=True)
class EditsConfig:
    """Bounds of the store of edits."""

    keep_s: Annotated[float, Field(gt=0)] = 3600
    """Seconds for which the result of an edit is kept."""
    max_bytes: Annotated[int, Field(gt=0)] = 256_000_000
    """Bytes of requests and results; the oldest finished edits leave first."""


@dataclass(frozen=True)
class Order:
    """Edit as it was asked for: all that a gateway needs to run it, and run it again."""

    id: str
    owner: str
    """Name of the API key that made it."""
    form: Form
    """Its seed is fixed."""
    timeout_s: float
    """Seconds that each run of it may take."""
    request_id: str

    @property
    def nbytes(self) -> int:
        texts = sum(map(len, self.form.texts.values()))
        return OVERHEAD_BYTES + texts + sum(len(file) for files in self.form.files.values() for file in files)


@dataclass(frozen=True)
class EditState:
    """State of an edit, as clients see it."""

    id: str
    status: Status
    created_at: int
    expires_at: int
    queue_position: int | None
    """Edits that come before it; None unless it is queued."""
    step: int
    steps: int
    error: dict[str, Any] | None = None
    """Content of OpenAI's error envelope, of a failed edit."""

    @property
    def is_final(self) -> bool:
        return self.status not in ("queued", "running")

    def body(self) -> dict[str, Any]:
        """Build the JSON body."""
        return {"object": "edit", **asdict(self)}


@dataclass(frozen=True)
class Report:
    """Progress of an edit, from the gateway that runs it."""

    id: str
    position: int | None
    """Edits that come before it; None when it runs."""
    step: int
    steps: int
    partials: Sequence[bytes] = ()
    """Events of partial pictures, JSON."""
    first: int = 0
    """Number of the first of them, from 0; a report that comes twice changes nothing."""


@dataclass(frozen=True)
class News:
    """State of an edit for whoever follows it."""

    state: EditState
    version: int
    """Number of the state, to wait for a later one."""
    partials: Sequence[bytes]
    """Events of the partial pictures that were not read yet, JSON."""
    is_orphan: bool
    """True if no gateway runs it, though it is not final."""


@dataclass(eq=False)
class Stored:
    """Edit in the store."""

    order: Order
    state: EditState
    runner: str
    """Gateway that runs it."""
    seen: float
    """Time of the runner's last report."""
    partials: list[bytes] = field(default_factory=list)
    result: bytes = b""
    """JSON of the answer, of a completed edit."""
    counted: int = 0
    """Bytes that are counted in the store's sum."""
    version: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def nbytes(self) -> int:
        return self.order.nbytes + len(self.result) + sum(map(len, self.partials))

    def change(self, **changes: Any) -> None:
        """Change the state and wake those who wait for it."""
        self.state, self.version = replace(self.state, **changes), self.version + 1
        self.changed.set()
        self.changed = asyncio.Event()

    def take(self, report: Report, now: float) -> None:
        """Take a report of the runner, which also says that it lives."""
        self.seen = now
        if report.partials:
            self.partials[report.first :] = report.partials
        status: Status = "running" if report.position is None else "queued"
        state = {"status": status, "queue_position": report.position, "step": report.step, "steps": report.steps}
        if report.partials or any(getattr(self.state, name) != value for name, value in state.items()):
            self.change(**state)


class EditStore:
    """Edits by id: those that run, and for a time those that are done.

    The gateway that took an edit runs it and reports; while it reports, the edit is its own. An edit whose gateway has
    died goes to the next one that claims it. Requests and results are bounded in sum, but for the latest result.
    """

    def __init__(self, config: EditsConfig, clock: Callable[[], float] = time.time):
        self._config, self._clock = config, clock
        self._edits: dict[str, Stored] = {}
        """Finished edits are in the order of their ends."""
        self._dropped: dict[str, float] = {}
        """Times at which edits were dropped, of the last minute: their gateways stop them."""
        self.nbytes = 0

    def add(self, order: Order, runner: str, position: int | None, steps: int) -> EditState | None:
        """Keep an edit that a gateway runs; None if there is no room."""
        self._drop_expired()
        if (known := self._edits.get(order.id)) is not None:  # a gateway tells it twice to a store that started again
            return known.state
        if not self._make_room(order.nbytes):
            return None
        now = self._clock()
        state = EditState(order.id, "queued", int(now), int(now + self._config.keep_s), position, 0, steps)
        self._edits[order.id] = edit = Stored(order, state, runner, now)
        self._count(edit)
        return state

    def report(self, runner: str, reports: Sequence[Report]) -> list[Verdict]:
        """Take the reports of all edits that a gateway runs."""
        return [self._take(runner, report) for report in reports]

    def finish(self, runner: str, report: Report, result: bytes, error: dict[str, Any] | None = None) -> Verdict:
        """Take the last report with the result, or an error in its place, if the edit is still the gateway's."""
        verdict = self._take(runner, report)
        if verdict == "run":
            edit = self._edits[report.id]
            if len(result) > self._config.max_bytes:
                message = f"the result has {len(result):,} bytes; make fewer or smaller pictures"
                result, error = b"", error_body(message, "server_error", code="result_too_large")["error"]
            edit.result = result
            self._end(edit, "failed" if error else "completed", error)
            self._make_room(0, keep=edit)
        return verdict

    def cancel(self, id: str, owner: str) -> EditState | None:
        """Cancel an edit, or remove one that is done; None if there is none."""
        if (edit := self._find(id, owner)) is None:
            return None
        if edit.state.is_final:
            self._drop(edit)
        else:
            self._end(edit, "canceled")
        return edit.state

    def claim(self, id: str, runner: str) -> Order | None:
        """Give an edit whose gateway has died to another one, once."""
        edit = self._edits.get(id)
        if edit is None or not self._is_orphan(edit):
            return None
        edit.runner, edit.seen = runner, self._clock()
        return edit.order

    def release(self, id: str, runner: str) -> None:
        """Take an edit back from a gateway that has no room for it."""
        edit = self._edits.get(id)
        if edit is not None and edit.runner == runner:
            edit.runner, edit.seen = "", self._clock() - 2 * LEASE_S

    def result(self, id: str, owner: str) -> bytes | None:
        """Return the JSON of a completed edit's answer."""
        edit = self._find(id, owner)
        return edit.result if edit else None

    async def news(self, id: str, owner: str, version: int = -1, partials: int = 0) -> News | None:
        """Return the state, after a while if it is still this version; None if there is no such edit.

        Args:
            partials: number of the events of partial pictures that are known.
        """
        if (edit := self._find(id, owner)) is None:
            return None
        if edit.version == version and not edit.state.is_final:
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await edit.changed.wait()
        return News(edit.state, edit.version, edit.partials[partials:], self._is_orphan(edit))

    def _find(self, id: str, owner: str) -> Stored | None:
        edit = self._edits.get(id)
        if edit is None or edit.order.owner != owner or self._is_expired(edit):
            return None
        return edit

    def _take(self, runner: str, report: Report) -> Verdict:
        edit = self._edits.get(report.id)
        if edit is None:
            return "stop" if report.id in self._dropped else "unknown"
        if edit.state.is_final or edit.runner != runner:
            return "stop"
        edit.take(report, self._clock())
        self._count(edit)
        return "run"

    def _end(self, edit: Stored, status: Status, error: dict[str, Any] | None = None) -> None:
        """End an edit; its request is needed no more."""
        edit.order = replace(edit.order, form=Form({}, {}))
        expires = int(self._clock() + self._config.keep_s)
        edit.change(status=status, error=error, queue_position=None, expires_at=expires)
        self._edits[edit.order.id] = self._edits.pop(edit.order.id)
        self._count(edit)

    def _is_orphan(self, edit: Stored) -> bool:
        return not edit.state.is_final and self._clock() - edit.seen > LEASE_S

    def _is_expired(self, edit: Stored) -> bool:
        """Tell if a result was kept for long enough, or nobody has run or claimed an edit for as long."""
        now = self._clock()
        return now >= (edit.state.expires_at if edit.state.is_final else edit.seen + self._config.keep_s)

    def _drop_expired(self) -> None:
        for edit in [edit for edit in self._edits.values() if self._is_expired(edit)]:
            self._drop(edit)
        minute_ago = self._clock() - 60
        self._dropped = {id: at for id, at in self._dropped.items() if at > minute_ago}

    def _make_room(self, nbytes: int, keep: Stored | None = None) -> bool:
        """Drop the oldest finished edits until `nbytes` fit beside the others; False if they do not."""
        for edit in list(self._edits.values()) if self.nbytes + nbytes > self._config.max_bytes else ():
            if self.nbytes + nbytes > self._config.max_bytes and edit.state.is_final and edit is not keep:
                self._drop(edit)
        return self.nbytes + nbytes <= self._config.max_bytes

    def _count(self, edit: Stored) -> None:
        self.nbytes += edit.nbytes - edit.counted
        edit.counted = edit.nbytes

    def _drop(self, edit: Stored) -> None:
        self.nbytes -= self._edits.pop(edit.order.id).counted
        self._dropped[edit.order.id] = self._clock()


class SharedStore:
    """Way to the store: the actor of all gateways, or an own store where there is no Ray."""

    def __init__(self, config: EditsConfig):
        self._config, self._own = config, EditStore(config)
        self._actor: Any = None

    def share(self) -> None:
        """Keep edits in one actor for all gateways of this Ray, which outlives them."""
        options = {"name": "fireedit-edits", "namespace": "serve", "lifetime": "detached", "get_if_exists": True}
        limits = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": MAX_CALLS}
        self._actor = ray.remote(EditStore).options(**limits, **options).remote(self._config)

    async def ask(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of `EditStore`.

        Raises:
            Lost: the actor does not answer.
        """
        if self._actor is None:
            result = method(self._own, *arguments)
            return await result if inspect.isawaitable(result) else result
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await getattr(self._actor, method.__name__).remote(*arguments)
        except (TimeoutError, RayError) as error:
            raise Lost from error
