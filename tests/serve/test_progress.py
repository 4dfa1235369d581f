"""Progress on its way to a slow reader, and the steps of partial pictures."""

import asyncio

import numpy as np
import pytest

from fireedit.serve.progress import Mailbox, Progress, partial_steps

CANVASES = [np.zeros((4, 4, 3), np.uint8)]


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [(10, 0, []), (10, 1, [5]), (10, 2, [3, 6]), (10, 3, [2, 5, 7]), (4, 3, [1, 2, 3]), (3, 3, [1, 2]), (2, 3, [1])]
    + [(1, 3, []), (1, 1, []), (2, 1, [1])],
)
def test_partial_pictures_are_spread_over_the_steps_before_the_last(
    steps: int, count: int, expected: list[int]
) -> None:
    assert sorted(partial_steps(steps, count)) == expected


def test_a_slow_reader_gets_the_latest_progress_and_every_picture_once() -> None:
    async def main() -> list[Progress | None]:
        mailbox, end = Mailbox(), asyncio.get_running_loop().create_future()
        for step in range(1, 10):
            mailbox.post(Progress(step, 9, 0, CANVASES if step in (3, 6) else None))
        end.set_result(None)
        return [progress async for progress in mailbox.read(end)]

    read = [(progress.step, progress.images is not None) for progress in asyncio.run(main()) if progress]
    assert read == [(3, True), (6, True), (9, False)]


def test_the_reader_hears_when_there_is_no_news_and_stops_at_the_end() -> None:
    async def main() -> list[Progress | None]:
        mailbox, end = Mailbox(), asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.25, end.set_result, None)
        return [progress async for progress in mailbox.read(end, idle_s=0.1)]

    assert asyncio.run(main()) == [None, None]
