"""Study over HTTP: the page, its pictures and its answers, as a FastAPI app under uvicorn or Ray Serve.

Every address in the page is relative, so that the app may be mounted below a path. No answer holds a method's name.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from fireedit.jobs.studying.questionnaire import AnswerError, Questionnaire, State, UnknownParticipantError
from fireedit.jobs.studying.study_folder import VOTES, StudyError, picture_path, read_study
from fireedit.jobs.studying.votes import Votes

PAGE = Path(__file__).parent / "page"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",  # the address of a page is what a participant is known by
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex",
}
MAX_BYTES = 4096
"""Longest body of a request."""
TOKEN = re.compile("[0-9a-f]{32}")
OPEN = "open"
"""Name that stands for a participant's token in the open link."""

Text = Annotated[str, Field(max_length=64)]


class Answer(BaseModel):
    """Choice of one picture."""

    model_config = ConfigDict(extra="forbid")

    question: Text
    picture: Text
    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    """Time that the question was shown."""


def build_app(questionnaire: Questionnaire, folder: Path) -> FastAPI:
    """Build the app.

    Args:
        folder: folder of the study, for its pictures.
    """
    app = FastAPI(openapi_url=None, title="study")
    app.middleware("http")(_with_headers)
    _add_errors(app, questionnaire)
    _add_page(app, questionnaire, folder)
    _add_participants(app, questionnaire)
    return app


def open_app(folder: Path, db: str = "", most_open: int = 0) -> FastAPI:
    """Open a study and its votes, and build the app.

    Raises:
        StudyError: the study or its votes cannot be used.
    """
    study = read_study(folder)
    votes = Votes.open(db or default_votes(folder), study.token)
    return build_app(Questionnaire(study, votes, most_open), folder)


def default_votes(folder: Path) -> str:
    """Address of the votes in the folder of a study."""
    return f"sqlite:///{(folder / VOTES).absolute()}"


class StudyReplica:
    """Replica of a study under Ray Serve."""

    def __init__(self, study: str, db: str, most_open: int):
        self.arguments = (Path(study), db, most_open)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the app in the replica; Ray Serve calls it by this name."""
        return await run_in_threadpool(open_app, *self.arguments)


StudyDeployment = serve.deployment(name="study", logging_config={"enable_access_log": False})(
    serve.ingress()(StudyReplica)
)


def deployment(args: Mapping[str, Any]) -> serve.Application:
    """Build the application of Ray Serve from `args` of its configuration.

    Args:
        args: `study` (folder), and if wanted `db` (address of the votes) and `open` (participants by the open link).
    Raises:
        StudyError: an argument is missing or unknown.
    """
    if not args.get("study") or (unknown := set(args) - {"study", "db", "open"}):
        found = f"unknown {sorted(unknown)}" if args.get("study") else "no study"
        raise StudyError(f"args of the study: found {found}; write study, and if wanted db and open")
    return StudyDeployment.bind(str(args["study"]), str(args.get("db", "")), int(args.get("open", 0)))


def _add_page(app: FastAPI, questionnaire: Questionnaire, folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in MEDIA_TYPES}
    page = files.pop("index.html")

    @app.get("/")
    def front(request: Request) -> Response:
        mount = request.url.path.rpartition("/")[2]  # the app's folder, where its address has no slash at the end
        return RedirectResponse(f"{mount}/s/{OPEN}" if mount else f"s/{OPEN}")

    @app.get("/s/{token}")
    def questions(token: str) -> Response:
        return Response(page, media_type=MEDIA_TYPES[".html"], headers={"cache-control": "no-cache"})

    @app.get("/page/{name}")
    def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        headers = {"cache-control": "no-cache"}
        return Response(files[name], media_type=MEDIA_TYPES[Path(name).suffix], headers=headers)

    @app.get("/pictures/{name}")
    def picture(name: str) -> Response:
        token = name.removesuffix(".png")
        path = picture_path(folder, token)
        if token not in questionnaire.pictures or not path.is_file():
            raise HTTPException(404)
        return Response(path.read_bytes(), media_type="image/png", headers={"cache-control": "private, max-age=86400"})


def _add_participants(app: FastAPI, questionnaire: Questionnaire) -> None:
    @app.get(f"/api/{OPEN}")
    def offer() -> Response:
        study = questionnaire.study
        state = {"step": "consent", "of": len(study.questions), "answered": 0, "pictures": len(study.methods)}
        return _state(state | {"aspects": list(study.aspects)} if questionnaire.most_open else None)

    @app.post(f"/api/{OPEN}")
    def join() -> Response:
        token = questionnaire.join()
        return _state({"token": token} if token else None)

    @app.get("/api/{token}")
    def state(token: str) -> Response:
        return _state(questionnaire.state(_checked(token)))

    @app.post("/api/{token}/consent")
    def consent(token: str) -> Response:
        return _state(questionnaire.consent(_checked(token)))

    @app.get("/api/{token}/questions/{place}")
    def look_back(token: str, place: str) -> Response:
        number = int(place) if re.fullmatch("[0-9]{1,6}", place) else 0
        return _state(questionnaire.look_back(_checked(token), number))

    @app.post("/api/{token}/answers")
    async def answer(token: str, request: Request) -> Response:
        participant = _checked(token)
        sent = await _read_answer(request)
        given = (participant, sent.question, sent.picture, sent.seconds)
        return _state(await run_in_threadpool(questionnaire.answer, *given))


def _checked(token: str) -> str:
    if not TOKEN.fullmatch(token):
        raise UnknownParticipantError(token)
    return token


async def _read_answer(request: Request) -> Answer:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BYTES:
            raise HTTPException(413, f"found more than {MAX_BYTES} bytes; send one answer")
    try:
        return Answer.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise HTTPException(422, f"{place}: {first['msg']}; send question, picture and seconds") from None


def _state(state: State | None) -> Response:
    """Answer with a state; 404 if there is none."""
    if state is None:
        raise HTTPException(404)
    return JSONResponse(state, headers={"cache-control": "no-store"})


def _add_errors(app: FastAPI, questionnaire: Questionnaire) -> None:
    def unknown(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "this link is not known; ask for a new one"}, 404)

    def refused(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 409)

    def unavailable(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "votes cannot be kept at the moment; try again"}, 503)

    app.add_exception_handler(UnknownParticipantError, unknown)
    app.add_exception_handler(AnswerError, refused)
    app.add_exception_handler(questionnaire.votes.database.errors, unavailable)


async def _with_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response
