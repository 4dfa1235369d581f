"""The way of an edit through stages that die, hang or are left; the stages' handles stand in for Ray Serve's."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from fireedit.serve import flow as flow_module
from fireedit.serve.errors import Lost
from fireedit.serve.flow import ATTEMPTS, STALE_S, Flow, Readiness, Trace
from fireedit.serve.schema import EditJob, EditRequest, Source, Tokens
from fireedit.serve.stage import Painted, Seen, Stages, StageTimes, Understood

CANVAS = np.zeros((4, 4, 3), np.uint8)
IMAGE = np.ones((4, 4, 3), np.uint8)
REQUEST = EditRequest(source=Source(CANVAS, (4, 4), b""), prompt="red", n=1, seed=0, settings={}, size=(4, 4))
JOB = EditJob(settings={}, seeds=(0,), request_id="id")


class Response:
    """Response of a handle: a result, an error, or neither until it is cancelled."""

    def __init__(self, outcome: Any):
        self.outcome, self.is_cancelled = outcome, False

    def __await__(self) -> Generator[Any, None, Any]:
        if self.outcome is None:
            yield from asyncio.sleep(60).__await__()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        self.is_cancelled = True


class Method:
    """Method of a handle, with the outcomes of its calls in order; the last one repeats."""

    def __init__(self, *outcomes: Any):
        self.outcomes, self.responses, self.calls = [*outcomes], list[Response](), list[tuple[Any, ...]]()

    def remote(self, *arguments: Any) -> Response:
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        self.calls.append(arguments)
        self.responses.append(Response(outcome))
        return self.responses[-1]


class Stage:
    """Handle of a deployment."""

    def __init__(self, **methods: Method):
        vars(self).update(methods)


def times(stage: str) -> StageTimes:
    return StageTimes(stage, 0.1, 0.2)


SEEN: Any = Seen("key", "tokens", "detail", np.zeros((1, 4)), np.ones(1), times("detector"))  # type: ignore[arg-type]
UNDERSTOOD: Any = Understood("edit tokens", Tokens(text=9), times("vlm"))  # type: ignore[arg-type]
PAINTED = Painted([IMAGE], [np.ones((1, 1), bool)], times("unet"), 10, 0.01)


def make(painting: Method) -> tuple[Flow, Stages, list[str]]:
    seeing, understanding = Stage(propose=Method(SEEN)), Stage(understand=Method(UNDERSTOOD))
    stages, answered = Stages(detector=seeing, vlm=understanding, unet=Stage(edit=painting)), list[str]()
    return Flow(stages, answered.append, put=lambda canvas: "canvas"), stages, answered


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_module, "PAUSE_S", 0.001)


def test_each_stage_is_sent_what_it_reads() -> None:
    flow, stages, answered = make(Method(PAINTED))
    edited = asyncio.run(flow.edit(REQUEST, JOB, trace := Trace()))
    assert edited.canvases == [IMAGE] and len(edited.boxes) == 1
    assert stages.detector.propose.calls == [("canvas", None, JOB.deadline, "id")]
    assert stages.vlm.understand.calls == [("key", "tokens", "red", JOB.deadline, "id")]
    assert stages.unet.edit.calls == [("canvas", "detail", "edit tokens", JOB)]
    assert answered == [each.stage for each in trace.times] == ["detector", "vlm", "unet"]
    assert (trace.steps, trace.attempts) == (10, 1)


def test_text_encoder_takes_the_place_of_detector_and_vlm() -> None:
    unet, text = Stage(edit=Method(PAINTED)), Stage(understand=Method(Understood("t", Tokens(text=2), times("text"))))  # type: ignore[arg-type]
    flow = Flow(Stages(text=text, unet=unet), lambda name: None, put=lambda canvas: "canvas")
    edited = asyncio.run(flow.edit(REQUEST, JOB, Trace()))
    assert unet.edit.calls == [("canvas", None, "t", JOB)] and len(edited.boxes) == len(edited.scores) == 0  # type: ignore[attr-defined]


def test_lost_stage_costs_no_answer() -> None:
    flow, _, _ = make(Method(ActorDiedError(), ActorDiedError(), PAINTED))
    assert asyncio.run(flow.edit(REQUEST, JOB, trace := Trace())).canvases == [IMAGE]
    assert (trace.attempts, len(trace.times)) == (ATTEMPTS, 3)


@pytest.mark.parametrize(
    ("error", "raised", "calls"),
    [(ActorDiedError(), Lost, ATTEMPTS), (BackPressureError(1, 1), BackPressureError, 1), (KeyError(), KeyError, 1)],
)
def test_other_errors_and_a_stage_that_stays_lost_are_raised(
    error: Exception, raised: type[Exception], calls: int
) -> None:
    flow, _, _ = make(painting := Method(error))
    with pytest.raises(raised):
        asyncio.run(flow.edit(REQUEST, JOB, Trace()))
    assert len(painting.calls) == calls


def test_client_that_leaves_cancels_the_stage() -> None:
    async def leave() -> None:
        flow, _, _ = make(painting := Method(None))
        task = asyncio.create_task(flow.edit(REQUEST, JOB, Trace()))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [response.is_cancelled for response in painting.responses] == [True]

    asyncio.run(leave())


def ready_after(answer: Any, check: Callable[[Readiness], Any], from_zero: tuple[str, ...] = ()) -> Any:
    async def main() -> Any:
        stage = Stage(ready=Method(*answer))
        readiness = Readiness(Stages(unet=stage, detector=Stage(ready=Method(True))), from_zero, lambda: 100.0)
        readiness.watch()
        await asyncio.sleep(0.05)
        return check(readiness)

    return asyncio.run(main())


def test_stage_is_ready_while_it_answers_probes_or_edits() -> None:
    assert ready_after([True], Readiness.missing) == []
    assert ready_after([ActorDiedError(), True], Readiness.missing) == []  # the other replica answers
    assert ready_after([ActorDiedError()], Readiness.missing) == ["unet"]
    assert ready_after([BackPressureError(1, 1)], Readiness.missing) == ["unet"]  # it never answered
    assert ready_after([ActorDiedError()], Readiness.missing, from_zero=("unet",)) == []
    readiness = Readiness(Stages(unet=Stage()), clock=lambda: STALE_S)
    assert readiness.missing() == ["unet"]
    readiness.answered("unet")
    assert readiness.missing() == []
