"""Stand-ins for the handles of Ray Serve, and a gateway in front of them."""

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any

import numpy as np

from fireedit.serve.gateway import Gateway, ServiceConfig
from fireedit.serve.progress import Progress
from fireedit.serve.prompts import served_model
from fireedit.serve.schema import LimitsConfig, Tokens
from fireedit.serve.stage import Painted, Seen, Stages, StageTimes, Understood
from fireedit.serve.store import EditsConfig

IMAGE = np.full((64, 64, 3), 9, np.uint8)
CANVAS = np.full((64, 64, 3), 200, np.uint8)
CHANGED = np.ones((16, 16), bool)


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

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.items()

    async def items(self) -> AsyncIterator[Any]:
        """Yield the items of a stream: a number is a pause in seconds."""
        for item in self.outcome:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, float):
                await asyncio.sleep(item)
            else:
                yield item

    def cancel(self) -> None:
        self.is_cancelled = True


class Method:
    """Method of a handle, with the outcomes of its calls in order; the last one repeats."""

    def __init__(self, *outcomes: Any):
        self.outcomes, self.responses, self.calls = [*outcomes], list[Response](), list[tuple[Any, ...]]()

    def options(self, stream: bool) -> "Method":
        assert stream
        return self

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
UNDERSTOOD: Any = Understood("edit tokens", Tokens(text=9, image=72, output=32), times("vlm"))  # type: ignore[arg-type]
PAINTED = Painted([IMAGE], [CHANGED], times("unet"), 10, 0.01)
WATCHED = [Progress(0, 10, 2), Progress(3, 10, 0, [CANVAS]), Progress(5, 10, 0), Progress(6, 10, 0, [CANVAS]), PAINTED]
"""Stream of an edit with two partial pictures."""


def stages(watch: Method | None = None, edit: Method | None = None) -> Stages:
    """Build stages that answer at once."""
    painter = Stage(edit=edit or Method(PAINTED), watch=watch or Method(WATCHED))
    return Stages(detector=Stage(propose=Method(SEEN)), vlm=Stage(understand=Method(UNDERSTOOD)), unet=painter)


def gateway(watch: Method | None = None, edits: EditsConfig | None = None, **limits: Any) -> Gateway:
    """Build a gateway of such stages."""
    config = ServiceConfig(model_name="nano", limits=LimitsConfig(**limits), edits=edits or EditsConfig())
    gateway = Gateway(stages(watch), served_model("nano"), config)
    gateway.flow.put = lambda canvas: canvas
    return gateway
