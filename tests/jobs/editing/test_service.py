"""Edits through a service that is slow, full, away, or refuses them."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fireedit.jobs.edit import main
from fireedit.jobs.editing import service as service_module
from fireedit.jobs.editing.many import ManyEdits
from fireedit.jobs.editing.service import EditRefused, Service, ServiceError, connect, edit_many, form_fields
from fireedit.platform.images import encode_png
from tests.factories import picture

PNG = encode_png(picture(1))
Reply = tuple[int, dict[str, str], Any]
GOOD = {"data": [{"b64_json": base64.b64encode(PNG).decode()}], "regions": [{"box": [0, 0, 1, 1], "score": 0.9}]}
MODELS = {"data": [{"id": "fireedit-nano"}]}
FIELDS = form_fields("make it red", 7, "png", "auto", {"num_inference_steps": None})


class Script:
    """Server that gives the next reply to each edit, the last one for ever, and keeps the bodies and headers."""

    def __init__(self, *replies: Reply):
        self.replies, self.bodies, self.keys, self.lock = (
            list(replies),
            list[bytes](),
            list[str | None](),
            threading.Lock(),
        )

    def reply(self, handler: BaseHTTPRequestHandler, body: bytes) -> Reply:
        with self.lock:
            self.bodies.append(body)
            self.keys.append(handler.headers.get("Authorization"))
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@pytest.fixture
def serve() -> Iterator[Callable[[Script], str]]:
    """Start a server on loopback that follows a script; returns its address."""
    servers = list[ThreadingHTTPServer]()

    def start(script: Script) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, {}, MODELS)

            def do_POST(self) -> None:
                self._answer(*script.reply(self, self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, status: int, headers: dict[str, str], body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(data))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def error(status: int, message: str = "no", **headers: str) -> Reply:
    return status, headers, {"error": {"message": message}}


def test_an_edit_is_sent_with_its_fields_and_its_key(serve: Callable[[Script], str], tmp_path: Path) -> None:
    script = Script((200, {}, GOOD))
    (tmp_path / "key").write_text("secret\n")
    service = connect(serve(script), str(tmp_path / "key"))
    with service.session:
        answer = service.edit(PNG, FIELDS)
    assert answer.data == PNG and answer.regions == 1 and script.keys == ["Bearer secret"]
    assert b'name="prompt"\r\n\r\nmake it red' in script.bodies[0] and b"num_inference_steps" not in script.bodies[0]


def test_a_full_service_is_waited_for_as_long_as_it_asks(serve: Callable[[Script], str]) -> None:
    full = {"Retry-After": "3"}
    waited = list[float]()
    script = Script((429, full, {}), (503, full, {}), (200, {}, GOOD))
    service = Service(serve(script), sleep=waited.append)
    with service.session:
        assert service.edit(PNG, FIELDS).data == PNG
    assert len(waited) == 2 and all(3 <= seconds < 4 for seconds in waited)


def test_a_service_that_is_away_for_a_while_loses_nothing(serve: Callable[[Script], str]) -> None:
    address, waited = serve(Script((200, {}, GOOD))), list[float]()
    service = Service("http://127.0.0.1:1")

    def come_back(seconds: float) -> None:
        waited.append(seconds)
        service.url = address.rstrip("/")

    service.sleep = come_back
    with service.session:
        assert service.edit(PNG, FIELDS).data == PNG and len(waited) == 1


def test_a_service_that_never_answered_is_soon_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service_module, "FIRST_PATIENCE_S", 0.0)
    service = Service("http://127.0.0.1:1", sleep=lambda _: None)
    with service.session, pytest.raises(ServiceError, match="127.0.0.1:1 has not answered for 0 s"):
        service.edit(PNG, FIELDS)
    assert "http://127.0.0.1:1 does not answer; waiting for it" in capsys.readouterr().err


def test_one_picture_is_edited_with_its_mask(
    serve: Callable[[Script], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, out = Script((200, {}, GOOD)), tmp_path / "edited.webp"
    (tmp_path / "source.png").write_bytes(PNG)
    argv = [str(tmp_path / "source.png"), "make it red", "--out", str(out), "--mask", str(tmp_path / "source.png")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIREEDIT_API_KEY", "secret")
        assert main([*argv, "--server", serve(script), "--steps", "3", "--size", "30x20"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["edited"] == str(out) and report["regions"] == 1 and out.read_bytes() == PNG
    for name, value in {"num_inference_steps": "3", "size": "30x20", "output_format": "webp", "seed": "0"}.items():
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in script.bodies[0]
    assert b'name="mask"' in script.bodies[0] and script.keys == ["Bearer secret"]


@pytest.mark.parametrize(("reply", "attempts"), [(error(400, "too long"), 1), (error(500, "too long"), 3)])
def test_a_refused_edit_says_why(serve: Callable[[Script], str], reply: Reply, attempts: int) -> None:
    script = Script(reply)
    service = Service(serve(script), sleep=lambda _: None)
    with service.session, pytest.raises(EditRefused, match=f"{reply[0]}: too long"):
        service.edit(PNG, FIELDS)
    assert len(script.bodies) == attempts


def test_a_wrong_key_ends_the_job(serve: Callable[[Script], str]) -> None:
    service = Service(serve(Script(error(401, "wrong key"))))
    with service.session, pytest.raises(ServiceError, match="wrong key; write the key into FIREEDIT_API_KEY"):
        service.edit(PNG, FIELDS)


def test_many_pictures_are_edited_once_each_and_refused_ones_set_aside(
    serve: Callable[[Script], str], tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(PNG)
    script = Script(error(400, "too long"), (200, {}, GOOD))
    edits = ManyEdits(source=str(tmp_path), out=str(tmp_path / "out"), instruction="make it red")
    service = Service(serve(script))
    with service.session:
        first, second = edit_many(edits, service, 2), edit_many(edits, service, 2)
    counts = [{name: report[name] for name in ("edited", "failed", "skipped")} for report in (first, second)]
    assert counts == [{"edited": 4, "failed": 1, "skipped": 0}, {"edited": 0, "failed": 1, "skipped": 4}]
    assert len(script.bodies) == 5 and len(list((tmp_path / "out" / "edited").iterdir())) == 4
