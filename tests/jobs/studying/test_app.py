"""Study over HTTP: no method's name leaves the server, repeated and broken requests change nothing."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from fireedit.jobs.studying.app import deployment, open_app
from fireedit.jobs.studying.study_folder import Study, StudyError
from fireedit.jobs.studying.votes import Votes
from tests.jobs.studying.study_evaluations import METHODS, write_study


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Run the app under uvicorn in a thread; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


class Asking:
    """Client that keeps everything it was answered."""

    def __init__(self, folder: Path, most_open: int = 0):
        self.client = TestClient(open_app(folder, most_open=most_open), raise_server_exceptions=False)
        self.answers: list[bytes] = []

    def __call__(self, method: str, path: str, **body: Any) -> Any:
        answer = self.client.request(method, path, **body)
        self.answers.append(answer.content + repr(answer.headers.raw).encode())
        return answer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    return write_study(tmp_path_factory.mktemp("study"), 4)


@pytest.fixture
def votes(made: tuple[Study, Path]) -> Iterator[Votes]:
    """Votes of a study, none yet."""
    study, folder = made
    yield Votes.open(f"sqlite:///{folder}/votes.db", study.token)
    for path in folder.glob("votes.db*"):
        path.unlink()


@pytest.fixture
def ask(made: tuple[Study, Path], votes: Votes) -> Asking:
    return Asking(made[1], most_open=2)


def first_answer(state: dict[str, Any], place: int = 2) -> dict[str, Any]:
    question = state["question"]
    return {"question": question["token"], "picture": question["pictures"][place], "seconds": 3.5}


def test_no_answer_names_a_method(ask: Asking, votes: Votes, made: tuple[Study, Path]) -> None:
    (token,) = votes.invite(1)
    for path in ("/", "/s/open", f"/s/{token}", "/api/open", f"/api/{token}", "/page/study.js", "/page/study.css"):
        assert ask("GET", path).status_code == 200
    state = ask("POST", f"/api/{token}/consent").json()
    while state["step"] == "question":
        for picture in (state["question"]["source"], *state["question"]["pictures"]):
            assert ask("GET", f"/pictures/{picture}.png").headers["content-type"] == "image/png"
        state = ask("POST", f"/api/{token}/answers", json=first_answer(state)).json()
        assert ask("GET", f"/api/{token}/questions/{state['answered']}").json()["chosen"]
    for path in (
        "/study.json",
        "/votes.db",
        "/pictures/../study.json",
        "/page/../study.json",
        "/docs",
        "/openapi.json",
    ):
        assert ask("GET", path).status_code == 404
    ask("POST", f"/api/{token}/answers", json={})
    study, folder = made
    secrets = [
        *METHODS,
        study.order_key,
        study.token,
        *study.weights,
        *(q.output for q in study.questions),
        str(folder),
    ]
    assert len(ask.answers) > 50
    assert not [word for word in secrets for answer in ask.answers if word.lower().encode() in answer.lower()]


def test_headers_keep_the_page_to_itself(ask: Asking, votes: Votes) -> None:
    for path in ("/s/open", "/api/open", f"/api/{votes.invite(1)[0]}", "/nowhere"):
        headers = ask("GET", path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in headers
    assert ask("GET", "/api/open").headers["cache-control"] == "no-store"
    assert b"http" not in ask("GET", "/s/open").content


def test_a_repeated_post_gets_the_same_state_and_counts_once(ask: Asking, votes: Votes) -> None:
    (token,) = votes.invite(1)
    answer = first_answer(ask("POST", f"/api/{token}/consent").json())

    def post(place: int) -> Any:
        return ask("POST", f"/api/{token}/answers", json=answer).json()

    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(post, range(8)))
    assert all(state == states[0] for state in states) and states[0]["answered"] == 1
    (vote,) = votes.all()
    assert (vote.picture, vote.place, vote.seconds) == (answer["picture"], 2, 3.5)
    assert ask("GET", f"/api/{token}").json() == states[0], "after a return"


def test_bad_requests_are_refused_and_the_server_stays(ask: Asking, votes: Votes) -> None:
    (token,) = votes.invite(1)
    answers, unknown = f"/api/{token}/answers", "0" * 32
    good = {"question": "q", "picture": "p", "seconds": 1.0}
    assert ask("POST", answers, json=good).status_code == 409, "no consent yet"
    state = ask("POST", f"/api/{token}/consent").json()
    for body in ("", "{", "[]", "null", '{"question": 5}', '"\\ud800"', '{"seconds": NaN}'):
        assert ask("POST", answers, content=body).status_code == 422
    for fields in ({"seconds": -1}, {"seconds": "x"}, {"more": 1}, {"picture": "p" * 65}):
        assert ask("POST", answers, json=good | fields).status_code == 422
    assert ask("POST", answers, content=b" " * 10_000).status_code == 413
    assert ask("POST", answers, json=good).json()["error"].startswith("found an answer to a question that is not")
    for path in (f"/api/{unknown}", "/api/x", "/api/%00", f"/api/{token}/questions/1", f"/api/{token}/questions/x"):
        assert ask("GET", path).status_code == 404
    for name in (f"{unknown}.png", "..%2fstudy.json", "%00"):
        assert ask("GET", f"/pictures/{name}").status_code == 404
    assert ask("POST", f"/api/{unknown}/consent").status_code == 404
    assert ask("DELETE", answers).status_code == 405
    assert ask("GET", f"/api/{token}").json() == state and votes.all() == []


def test_the_open_link_makes_participants_until_it_ends(ask: Asking, made: tuple[Study, Path]) -> None:
    offered = ask("GET", "/api/open").json()
    assert offered["step"] == "consent" and len(offered["aspects"]) == 3 and offered["pictures"] == 7
    tokens = {ask("POST", "/api/open").json()["token"] for _ in range(2)}
    assert len(tokens) == 2 and ask("POST", "/api/open").status_code == 404
    closed = Asking(made[1])
    assert closed("GET", "/api/open").status_code == closed("POST", "/api/open").status_code == 404


def test_a_database_that_fails_is_said_and_passes(ask: Asking, votes: Votes, monkeypatch: pytest.MonkeyPatch) -> None:
    (token,) = votes.invite(1)

    def locked(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr("fireedit.jobs.studying.votes.sqlite3.connect", locked)
        answer = ask("GET", f"/api/{token}")
        assert answer.status_code == 503 and "try again" in answer.json()["error"]
    assert ask("GET", f"/api/{token}").status_code == 200


def test_arguments_of_the_deployment_are_checked(made: tuple[Study, Path]) -> None:
    assert deployment({"study": str(made[1]), "open": 40}) is not None
    with pytest.raises(StudyError, match="found no study; write study"):
        deployment({})
    with pytest.raises(StudyError, match="found unknown"):
        deployment({"study": "x", "port": 1})


@pytest.mark.ray
@pytest.mark.soak
def test_ray_serve_runs_it(made: tuple[Study, Path], votes: Votes, ray_session: None) -> None:
    import requests
    from ray import serve

    (token,) = votes.invite(1)
    serve.start(http_options={"port": 8123})
    serve.run(deployment({"study": str(made[1])}), name="study", route_prefix="/study")
    try:
        address = "http://127.0.0.1:8123/study"
        assert "Which edit is best?" in requests.get(f"{address}/s/{token}", timeout=30).text
        assert requests.get(f"{address}/page/study.js", timeout=30).status_code == 200
        assert {requests.get(f"{address}{end}", timeout=30).url for end in ("", "/")} == {f"{address}/s/open"}
        state = requests.post(f"{address}/api/{token}/consent", timeout=30).json()
        given = requests.post(f"{address}/api/{token}/answers", json=first_answer(state), timeout=30)
        assert given.json()["answered"] == 1 and len(votes.all()) == 1
    finally:
        serve.shutdown()
