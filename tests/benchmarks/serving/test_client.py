"""The load's client tells what may be repeated from what may not, over real sockets."""

import asyncio
import json

import pytest

from fireedit.benchmarks.serving.client import Answer, form, get, request, send_until_answered
from fireedit.platform.cluster import HOST

ERROR = json.dumps({"error": dict.fromkeys(("message", "type", "param", "code"))}).encode()


@pytest.mark.parametrize(
    ("answer", "retryable"),
    [
        (Answer(0, failure="refused"), True),
        (Answer(0, failure="reset"), True),
        (Answer(0, failure="timeout"), False),
        (Answer(429), True),
        (Answer(503), True),
        (Answer(500), False),
        (Answer(400), False),
        (Answer(503, {"x-should-retry": "false"}), False),
        (Answer(400, {"x-should-retry": "true"}), True),
    ],
)
def test_a_client_repeats_what_openais_does_but_no_bare_500(answer: Answer, retryable: bool) -> None:
    assert answer.retryable == retryable


def test_the_envelope_is_all_or_nothing() -> None:
    assert Answer(400, body=ERROR).in_envelope and Answer(200).in_envelope
    assert not any(Answer(400, body=body).in_envelope for body in (b"", b"no", b'{"error": {"message": 1}}', b"[]"))


def test_answers_of_all_attempts_are_returned() -> None:
    """The server answers 429 once, then resets the connection, then answers in chunks."""
    replies = [
        b"HTTP/1.1 429 Busy\r\nRetry-After: 0\r\nContent-Length: 2\r\n\r\n{}",
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
    ]
    received: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"--fireedit-bench--\r\n"))
        writer.write(replies[len(received) - 1])
        writer.close()

    async def exchange() -> list[Answer]:
        async with await asyncio.start_server(answer, HOST, 0) as server:
            port = server.sockets[0].getsockname()[1]
            data = request("POST", "/x", form(b"file", {"prompt": "x"}), {"x-request-id": "one"})
            return await send_until_answered(f"http://{HOST}:{port}", data, patience_s=10)

    busy, reset, done = asyncio.run(exchange())
    assert (busy.status, busy.body, reset.failure, done.status, done.body) == (429, b"{}", "reset", 200, b"abcd")
    assert len(set(received)) == 1 and b"x-request-id: one" in received[0]


def test_a_refused_connection_is_an_answer_too() -> None:
    assert asyncio.run(get(f"http://{HOST}:9", "/")).failure == "refused"
