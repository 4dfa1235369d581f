"""Account of one request."""

import pytest
from ray.exceptions import TaskCancelledError
from starlette.requests import ClientDisconnect

from fireedit.serve import metrics
from fireedit.serve.errors import Lost, Refused, SlowBody, Unauthorized, answer_to
from fireedit.serve.record import Record
from fireedit.serve.schema import BadRequest, DeadlineExceeded

OUTCOMES = [
    (BadRequest("n: found 0"), "invalid"),
    (Unauthorized("no key"), "unauthorized"),
    (Refused("quota", "no more today"), "rejected"),
    (SlowBody("too slow"), "rejected"),
    (DeadlineExceeded(), "timeout"),
    (Lost(), "unavailable"),
    (OSError("/etc/secret"), "failed"),
    (ClientDisconnect(), "canceled"),
    (TaskCancelledError(), "canceled"),
]


@pytest.mark.parametrize(("error", "outcome"), OUTCOMES)
def test_outcome_is_that_of_the_error(error: Exception, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = list[str]()
    monkeypatch.setattr(metrics, "count_request", counted.append)
    with Record("id") as record:
        record.answered(answer_to(error, "id"), error)
    assert counted == [outcome]
