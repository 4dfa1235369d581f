"""Bodies: how long, how slow, how broken they may be."""

import asyncio
import base64
import json
from collections.abc import Iterable

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fireedit.serve import form as form_module
from fireedit.serve.errors import Refused, SlowBody
from fireedit.serve.fields import Form
from fireedit.serve.form import Bodies, read_form
from fireedit.serve.schema import BadRequest, LimitsConfig
from tests.serve.asgi import FORM, call, multipart

LIMITS = LimitsConfig(max_image_bytes=1_000_000, max_bodies_bytes=2_500_000, body_timeout_s=0.3)


def read(
    *body: bytes,
    headers: dict[str, str] = FORM,
    bodies: Bodies | None = None,
    pause_s: float = 0,
    complete: bool = True,
) -> Form:
    """Read the pieces of one body."""
    found: list[Form] = []
    shared = bodies or Bodies(LIMITS)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with shared.hold() as held:
            found.append(await read_form(Request(scope, receive), held))
            assert shared.held >= sum(map(len, body)) * complete
        await Response()(scope, receive, send)

    asyncio.run(
        call(app, "/", method="POST", headers=headers, body=body or [b""], pause_s=pause_s, is_complete=complete)
    )
    return found[0]


def pieces(body: bytes, size: int) -> Iterable[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def test_texts_and_files_arrive_in_pieces_of_any_size() -> None:
    image = bytes(range(256)) * 20
    body = multipart(image, prompt="größer 🙂", n="2")
    for size in (1, 7, len(body)):
        form = read(*pieces(body, size))
        assert form.texts == {"prompt": "größer 🙂", "n": "2"} and form.files == {"image": [image]}


def test_charset_of_the_client_is_not_trusted() -> None:
    headers = {"Content-Type": FORM["Content-Type"] + "; charset=utf-16"}
    assert read(multipart(prompt="ü"), headers=headers).texts == {"prompt": "ü"}


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"caf\xe9"])
def test_text_that_is_not_utf8_is_an_error(text: bytes) -> None:
    with pytest.raises(BadRequest, match="prompt: found bytes that are not UTF-8") as error:
        read(multipart(prompt=text))
    assert error.value.param == "prompt"


def test_unfilled_file_field_of_a_browser_is_left_out() -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="mask"; filename=""\r\n\r\n\r\n--b--\r\n'
    assert read(part).files == {}


@pytest.mark.parametrize(
    "body",
    [
        b"no form",
        b"--b\r\n\r\nx\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="n"\r\n' + b"X-A: a\r\n" * 50 + b"\r\n1\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="' + b"n" * 100_000 + b'"\r\n\r\n1\r\n--b--\r\n',
        multipart(**{f"x{index}": "1" for index in range(200)}),
    ],
)
def test_broken_or_overgrown_form_is_an_error(body: bytes) -> None:
    with pytest.raises(BadRequest, match="the multipart form cannot be read"):
        read(*pieces(body, 1000))


@pytest.mark.parametrize(
    "content_type", ["application/jsonp", "multipart/form-data", "text/plain", "multipart/form-dat"]
)
def test_other_content_types_are_errors(content_type: str) -> None:
    with pytest.raises(BadRequest):
        read(b"{}", headers={"Content-Type": content_type})


def test_too_long_a_body_is_given_up_when_announced_or_when_it_comes() -> None:
    with pytest.raises(BadRequest, match="found more than 1,000,000 bytes"):
        read(headers=FORM | {"Content-Length": "9" * 30})
    with pytest.raises(BadRequest, match="found more than 1,000,000 bytes"):
        read(*[multipart(b"")[:-9]] + [bytes(500_000)] * 5)


@pytest.mark.parametrize("complete", [True, False])
def test_slow_body_is_given_up(complete: bool) -> None:
    body = pieces(multipart(bytes(500), prompt="x"), 1)
    with pytest.raises(SlowBody, match="the body came too slowly"):
        read(*body, pause_s=0.02, complete=complete)


def test_rate_counts_after_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_module, "GRACE_S", 0.05)
    body = multipart(bytes(2_000), prompt="x")
    limits = Bodies(LimitsConfig(min_body_bytes_per_s=100_000))
    read(*pieces(body, 500), bodies=limits, pause_s=0.001)
    with pytest.raises(SlowBody):
        read(*pieces(body, 20), bodies=limits, pause_s=0.01)
    assert limits.held == limits.reading == 0


def test_bytes_are_bounded_in_sum() -> None:
    bodies = Bodies(LIMITS)
    with bodies.hold() as first, bodies.hold() as second, bodies.hold() as third:
        first.announce(1_000_000)
        second.announce(1_000_000)
        third.add(400_000)
        with pytest.raises(Refused, match="as many bytes") as refused:
            third.add(400_000)
        assert refused.value.reason == "too_many_bytes"
    assert bodies.held == 0
    with bodies.hold() as alone:
        alone.announce(1_500_000)


def test_a_json_body_may_be_as_long_as_its_picture_in_base64() -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    picture = base64.b64encode(bytes(990_000)).decode()
    body = json.dumps({"prompt": "red", "images": [{"image_url": f"data:image/png;base64,{picture}"}]}).encode()
    form = read(*pieces(body, 65_536), headers=headers)
    assert form.texts == {"prompt": "red"} and form.files == {"image": [bytes(990_000)]}
    with pytest.raises(BadRequest, match="more than 1,000,000 bytes"):
        read(b" " * 3_000_000, headers=headers)
    with pytest.raises(SlowBody):
        read(body, headers=headers, complete=False)
