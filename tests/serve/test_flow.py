"""The way of an edit through stages that die, hang or are left; the stages' handles stand in for Ray Serve's."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from fireedit.serve import flow as flow_module
from fireedit.serve.errors import Lost
from fireedit.serve.flow import ATTEMPTS, STALE_S, Flow, Readiness, Trace
from fireedit.serve.progress import Progress
from fireedit.serve.schema import DeadlineExceeded, Edited, EditJob, EditRequest, Source, Tokens
from fireedit.serve.stage import Stages, Understood
from tests.serve.standins import IMAGE, PAINTED, WATCHED, Method, Stage, stages, times

CANVAS = np.zeros((4, 4, 3), np.uint8)
REQUEST = EditRequest(source=Source(CANVAS, (4, 4), b""), prompt="red", n=1, seed=0, settings={}, size=(4, 4))
JOB = EditJob(settings={}, seeds=(0,), request_id="id")


def make(painting: Method) -> tuple[Flow, Stages, list[str]]:
    standing, answered = stages(painting, painting), list[str]()
    return Flow(standing, answered.append, put=lambda canvas: "canvas"), standing, answered


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


async def watched(flow: Flow, trace: Trace, job: EditJob = JOB) -> list[Any]:
    return [news async for news in flow.watch(REQUEST, job, trace)]


def test_a_watched_edit_tells_its_progress_and_then_its_result() -> None:
    flow, standing, answered = make(Method(WATCHED))
    *progress, edited = asyncio.run(watched(flow, trace := Trace()))
    assert progress[-1] == WATCHED[-2] and isinstance(edited, Edited) and edited.canvases == [IMAGE]
    assert [each.step for each in progress if each.images is not None] == [3, 6]
    assert standing.unet.watch.calls == [("canvas", "detail", "edit tokens", JOB)]
    assert answered == ["detector", "vlm", "unet"] and (trace.steps, trace.attempts) == (10, 1)


def test_partial_pictures_of_a_lost_painter_are_not_given_again() -> None:
    flow, _, _ = make(Method([*WATCHED[:2], ActorDiedError()], [0.05, *WATCHED]))
    news = asyncio.run(watched(flow, trace := Trace()))
    assert trace.attempts == 2 and isinstance(news[-1], Edited)
    pictures = [each.step for each in news if isinstance(each, Progress) and each.images is not None]
    assert pictures == [3, 6]


def test_the_deadline_ends_a_watched_edit_and_its_stage() -> None:
    flow, _, _ = make(painting := Method([WATCHED[0], 60.0]))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(watched(flow, Trace(), replace(JOB, deadline=time.time() + 0.1)))
    assert [response.is_cancelled for response in painting.responses] == [True]


def test_a_watcher_that_leaves_cancels_the_stage() -> None:
    async def leave() -> None:
        flow, _, _ = make(painting := Method([WATCHED[0], 60.0]))
        watching = flow.watch(REQUEST, JOB, Trace())
        assert await anext(watching) == WATCHED[0]
        await watching.aclose()
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
