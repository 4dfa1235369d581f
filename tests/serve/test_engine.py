"""Engine of the UNet: equal pictures in any company, order of the steps, and edits that leave."""

import asyncio
import math
import time
from contextlib import aclosing
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import squash
from fireedit.models.speed import SpeedConfig
from fireedit.models.vae import NotFiniteError
from fireedit.serve import engine as engine_module
from fireedit.serve import metrics
from fireedit.serve.engine import Engine, EngineConfig, Load, QueuedEdit, choose
from fireedit.serve.progress import Progress
from fireedit.serve.schema import DeadlineExceeded, EditJob
from fireedit.serve.stage import Painted

GUIDED = {"guidance_scale": 4.0, "image_guidance_scale": 1.5}


class Studio:
    """Engine with sources and instructions for it."""

    def __init__(self, pipeline: FireEditPipeline, photos: list[np.ndarray]):
        self.pipeline = pipeline
        side = pipeline.vae.config.sample_size
        self.canvases = [squash(photo, side) for photo in photos]
        self.percepts = [pipeline.perceive([canvas]) for canvas in self.canvases]
        self.tokens = [pipeline.understand(each, ["make it red"]) for each in self.percepts]

    def engine(self, **config: int) -> Engine:
        return Engine(self.pipeline, EngineConfig(**config))

    def paint(self, engine: Engine, photo: int, job: EditJob) -> Any:
        return engine.paint(self.canvases[photo], self.percepts[photo], self.tokens[photo], job)

    def watch(self, engine: Engine, photo: int, job: EditJob) -> Any:
        return engine.watch(self.canvases[photo], self.percepts[photo], self.tokens[photo], job)


@pytest.fixture(scope="module")
def studio(pipeline: FireEditPipeline, photos: list[np.ndarray]) -> Studio:
    return Studio(pipeline, photos)


def job(steps: int, *seeds: int, guided: bool = True, **more: Any) -> EditJob:
    settings = {"num_inference_steps": steps, **(GUIDED if guided else {})}
    return EditJob(settings=settings, seeds=seeds or (1,), **more)


def equal(one: Painted, other: Painted) -> bool:
    return np.array_equal(one.canvases, other.canvases) and np.array_equal(one.changed, other.changed)


@pytest.mark.parametrize("max_branches", [1, 5, 12])
def test_pictures_are_the_same_in_any_company(studio: Studio, max_branches: int) -> None:
    jobs = [job(2, 7), job(3, 8, 9), job(5, 10, guided=False), job(1, 11, reproducible=True), job(2, 12, 7)]

    async def together() -> list[Painted]:
        engine = studio.engine(max_branches=max_branches)
        return await asyncio.gather(*(studio.paint(engine, index % 3, each) for index, each in enumerate(jobs)))

    async def alone(photo: int, each: EditJob) -> Painted:
        return await studio.paint(studio.engine(), photo, each)

    for index, painted in enumerate(asyncio.run(together())):
        assert equal(painted, asyncio.run(alone(index % 3, jobs[index])))
        assert painted.steps == jobs[index].settings["num_inference_steps"] and painted.branch_seconds > 0


def test_an_edit_that_is_not_finite_fails_alone(studio: Studio) -> None:
    strong = EditJob(settings={"num_inference_steps": 2, "guidance_scale": 1e38}, seeds=(1,), caller="")

    async def together() -> list[Any]:
        engine = studio.engine()
        return await asyncio.gather(
            studio.paint(engine, 0, strong), studio.paint(engine, 1, job(2, 7)), return_exceptions=True
        )

    failed, painted = asyncio.run(together())
    assert isinstance(failed, NotFiniteError) and equal(
        painted, asyncio.run(studio.paint(studio.engine(), 1, job(2, 7)))
    )


def test_picture_is_the_pipelines(studio: Studio, pipeline: FireEditPipeline) -> None:
    painted = asyncio.run(studio.paint(studio.engine(), 0, job(3, 5, 6)))
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    how = {"num_images_per_prompt": 2, "generator": generators, "num_inference_steps": 3, "output_type": "latent"}
    expected = pipeline("make it red", studio.canvases[0], **how, **GUIDED).images
    assert np.array_equal(painted.canvases, pipeline.decode(expected))
    assert [changed.shape for changed in painted.changed] == [(16, 16)] * 2


def queued(pipeline: FireEditPipeline, steps: int, pictures: int = 1, guided: bool = True) -> QueuedEdit:
    each = job(steps, *range(pictures), guided=guided)
    settings = pipeline.settings.but(**each.settings)
    result: Any = None
    return QueuedEdit(each, settings, np.zeros(0), None, torch.zeros(0), result)


def test_shortest_edits_that_fit_are_stepped_first(pipeline: FireEditPipeline) -> None:
    long, short, large = (queued(pipeline, *each) for each in ((300,), (3,), (9, 4)))
    tiny = queued(pipeline, 100, guided=False)
    edits = [long, short, large, tiny]
    assert choose(edits, 12, False) == [short, tiny, long]
    assert choose(edits, 3, False) == [short]
    assert choose([large], 3, False) == [large]
    long.passed_over = 2
    assert choose(edits, 6, True) == [long, short]
    short.alone = True
    assert choose(edits, 12, False) == [short]
    assert choose(edits, 16, True) == [long, large, tiny]


def test_no_edit_starves_behind_short_ones(pipeline: FireEditPipeline) -> None:
    """Many short edits arrive for ever; the long one gets one step in `patience`, and each short one is soon done."""
    long, short = queued(pipeline, 50), [queued(pipeline, 3) for _ in range(100)]
    left = dict.fromkeys(map(id, [long, *short]), 3) | {id(long): 50}
    steps = 0
    while short:
        steps += 1
        (chosen,) = choose([long, *short[:5]], 3, longest_waiting_first=steps % 4 == 0)
        for edit in (long, *short[:5]):
            edit.passed_over = 0 if edit is chosen else edit.passed_over + 1
        left[id(chosen)] -= 1
        short = [edit for edit in short if left[id(edit)]]
    assert 50 - left[id(long)] >= 10 and steps < 3 * 100 * 4 / 3


def test_cancelled_edit_leaves_before_the_next_step(studio: Studio) -> None:
    async def scenario() -> Load:
        engine = studio.engine()
        task = asyncio.create_task(studio.paint(engine, 0, job(1000)))
        stays = asyncio.create_task(studio.paint(engine, 1, job(3)))
        await stays
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        steps = engine.load.steps
        await asyncio.sleep(0.3)
        assert engine.load.steps <= steps + 1
        return engine.load

    load = asyncio.run(scenario())
    assert (load.running, load.waiting) == (0, 0)


def test_edits_of_a_dead_caller_leave(studio: Studio) -> None:
    async def scenario() -> None:
        engine = studio.engine()
        orphan = asyncio.create_task(studio.paint(engine, 0, job(1000, caller="gone")))
        stays = asyncio.create_task(studio.paint(engine, 1, job(4, caller="there")))
        await asyncio.sleep(0.1)
        assert engine.callers == {"gone", "there"}
        engine.drop({"gone"})
        assert (await stays).canvases
        assert engine.load.steps < 50
        with pytest.raises(asyncio.CancelledError):
            await orphan

    asyncio.run(scenario())


def test_deadline_ends_an_edit_between_steps(studio: Studio) -> None:
    async def scenario() -> None:
        engine = studio.engine()
        late = studio.paint(engine, 0, job(1000, deadline=time.time() + 0.2))
        never = studio.paint(engine, 0, job(1, deadline=time.time() - 1))
        results = await asyncio.gather(late, never, studio.paint(engine, 1, job(2)), return_exceptions=True)
        assert [type(result) for result in results] == [DeadlineExceeded, DeadlineExceeded, Painted]
        assert engine.load.steps < 100

    asyncio.run(scenario())


async def watch(engine: Engine, studio: Studio, each: EditJob) -> tuple[list[Progress], Painted]:
    *progress, painted = [news async for news in studio.watch(engine, 0, each)]
    return progress, painted


def test_a_watched_edit_tells_its_steps_and_gives_the_same_pictures(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "PROGRESS_EVERY_S", 0.0)
    watched = job(8, 3, 4, partial_images=3)
    progress, painted = asyncio.run(watch(studio.engine(), studio, watched))
    assert [each.step for each in progress] == list(range(1, 8))
    assert {(each.steps, each.position) for each in progress} == {(8, 0)}
    assert equal(painted, asyncio.run(studio.paint(studio.engine(), 0, job(8, 3, 4))))
    partials = [each.images for each in progress if each.images is not None]
    assert [each.step for each in progress if each.images is not None] == [2, 4, 6]
    side = studio.pipeline.vae.config.sample_size
    assert [[image.shape for image in images] for images in partials] == [[(side, side, 3)] * 2] * 3
    assert partials[0][0].dtype == np.uint8 and not np.array_equal(partials[0][0], partials[0][1])
    again, _ = asyncio.run(watch(studio.engine(), studio, watched))
    assert all(map(np.array_equal, partials[1], next(each.images for each in again if each.step == 4) or []))


def test_progress_is_told_now_and_then_and_partial_pictures_at_once(studio: Studio) -> None:
    progress, _ = asyncio.run(watch(studio.engine(), studio, job(6, partial_images=2, guided=False)))
    assert len(progress) < 6 and [each.step for each in progress if each.images is not None] == [2, 4]


def test_an_edit_that_waits_knows_how_many_come_before_it(studio: Studio) -> None:
    async def scenario() -> list[Progress]:
        engine = studio.engine(max_branches=3, patience=1000)
        tasks = [asyncio.create_task(studio.paint(engine, 1, job(4))) for _ in range(2)]
        await asyncio.sleep(0)
        progress, _ = await watch(engine, studio, job(5))
        await asyncio.gather(*tasks)
        return progress

    positions = [each.position for each in asyncio.run(scenario())]
    assert positions[0] in (1, 2) and positions[-1] == 0 and positions == sorted(positions, reverse=True)


def test_a_watched_edit_whose_reader_goes_leaves_before_the_next_step(studio: Studio) -> None:
    async def scenario() -> None:
        engine = studio.engine()
        async with aclosing(studio.watch(engine, 0, job(1000))) as watched:
            await anext(watched)
        steps = engine.load.steps
        while engine.load.running or engine.load.waiting:
            await asyncio.sleep(0.01)
        assert engine.load.steps <= steps + 1

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_partial_picture_that_cannot_be_decoded_fails_its_edit_alone(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    async def scenario() -> None:
        engine = studio.engine()
        other = asyncio.create_task(studio.paint(engine, 0, job(10)))
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(studio.pipeline, "preview", broken)
            await watch(engine, studio, job(10, partial_images=1))
        assert isinstance(await other, Painted)

    asyncio.run(scenario())


def test_nobody_decodes_partial_pictures_for_a_plain_edit(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio.pipeline, "preview", None)
    painted = asyncio.run(studio.paint(studio.engine(), 0, job(4, partial_images=3)))
    assert len(painted.canvases) == 1


def test_edit_that_fails_takes_no_other_with_it(studio: Studio) -> None:
    async def scenario() -> None:
        engine = studio.engine()
        broken = engine.paint(studio.canvases[0], studio.percepts[0], torch.zeros(1, 77, 5), job(2))
        results = await asyncio.gather(
            broken, *(studio.paint(engine, 1, job(2, seed)) for seed in (1, 2)), return_exceptions=True
        )
        assert isinstance(results[0], RuntimeError)
        assert all(isinstance(result, Painted) for result in results[1:])
        assert engine.load == replace(engine.load, running=0, waiting=0)

    asyncio.run(scenario())


def test_picture_that_cannot_be_decoded_takes_no_other_with_it(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits of the same batch have done their last step by then."""
    whole = Engine._pictures

    def failing(engine: Engine, edit: QueuedEdit) -> Any:
        if edit.job.request_id == "broken":
            raise MemoryError("no room for the picture")
        return whole(engine, edit)

    monkeypatch.setattr(Engine, "_pictures", failing)

    async def scenario() -> None:
        engine = studio.engine()
        jobs = [job(3, 1, request_id="broken"), job(3, 2), job(9, 3)]
        results = await asyncio.gather(*(studio.paint(engine, 1, each) for each in jobs), return_exceptions=True)
        assert isinstance(results[0], MemoryError)
        for result, each in zip(results[1:], jobs[1:], strict=True):
            assert equal(result, await studio.paint(studio.engine(), 1, each))

    asyncio.run(scenario())


def test_steps_without_guidance_are_counted_as_one_branch(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an interval an edit of five steps has three that are unguided: more edits fit into them, and less is left."""
    batches, left = list[int](), list[float]()
    monkeypatch.setattr(metrics, "observe_batch", lambda _, branches: batches.append(branches))
    monkeypatch.setattr(studio.pipeline, "speed", SpeedConfig(guidance_interval=(0.3, 0.7)))

    async def scenario(engine: Engine, *jobs: EditJob) -> None:
        tell = engine._tell

        async def noted() -> None:
            left.append(sum(edit.branches_left for edit in engine._edits if edit.steps_left))
            await tell()

        monkeypatch.setattr(engine, "_tell", noted)
        await asyncio.gather(*(studio.paint(engine, 0, each) for each in jobs))

    asyncio.run(scenario(studio.engine(), job(5)))
    assert batches == [1, 1, 3, 3, 1] and left == [8, 7, 4, 1, 0]
    batches.clear()
    asyncio.run(scenario(studio.engine(max_branches=6), *(job(5, each) for each in range(6))))
    assert sum(batches) == 6 * 9 and max(batches) <= 6 and batches.count(1) < 6


def test_a_step_is_measured_when_the_device_is_done(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    device, waited = torch.device("cuda", 1), list[object]()

    def denoise(state: Any) -> None:
        state.latents = SimpleNamespace(device=device)

    def synchronize(device: torch.device) -> None:
        waited.append(device)
        time.sleep(0.05)

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    state = SimpleNamespace(steps_left=1, branches=2, latents=SimpleNamespace(device=device))
    engine = Engine(SimpleNamespace(denoise=denoise), EngineConfig())
    assert engine._advance([SimpleNamespace(state=state, steps_left=1)]) == [None]
    assert waited == [device] and engine.branch_seconds >= 0.02


def test_queue_seconds_count_what_is_left(studio: Studio) -> None:
    async def scenario() -> None:
        engine = studio.engine()
        assert engine.queue_seconds == 0
        tasks = [asyncio.create_task(studio.paint(engine, 0, job(30))) for _ in range(2)]
        while not engine.load.steps:
            await asyncio.sleep(0.01)
        assert 0 < engine.queue_seconds <= 2 * 30 * 3 * engine.branch_seconds
        for task in tasks:
            task.cancel()

    asyncio.run(scenario())
    assert math.isinf(job(1).deadline)
