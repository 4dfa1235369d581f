"""Studio's files over HTTP."""

import asyncio
import re
from pathlib import Path

import pytest
from starlette.applications import Starlette

from fireedit.serve.pages import FOLDER, MEDIA_TYPES, studio_routes
from tests.serve.asgi import Answer, call

APP = Starlette(routes=studio_routes())
MOST_LINES = 1500


def get(path: str, method: str = "GET", **headers: str) -> Answer:
    return asyncio.run(call(APP, path, method=method, headers=headers))


def test_every_file_is_served_with_its_type_and_the_policy() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert len(files) > 15 and {path.suffix for path in files} == set(MEDIA_TYPES)
    for path in files:
        address = f"/studio/{path.relative_to(FOLDER)}".replace("/studio/index.html", "/studio")
        answer = get(address)
        assert (answer.status, answer.body) == (200, path.read_bytes()), address
        assert answer.headers["content-type"] == MEDIA_TYPES[path.suffix]
        assert answer.headers["cache-control"] == "no-cache"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]


def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    etag = get("/studio/app.js").headers["etag"]
    again = get("/studio/app.js", **{"if-none-match": f'"other", W/{etag}'})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    assert get("/studio/app.js", **{"if-none-match": '"other"'}).status == 200


@pytest.mark.parametrize("path", ["/studio/../pages.py", "/studio/%2e%2e/pages.py", "/studio/x.js", "/studio/samples"])
def test_nothing_else_is_served(path: str) -> None:
    assert get(path).status == 404


def test_the_address_with_a_slash_leads_to_the_page_below_any_mount() -> None:
    assert get("/studio/").headers["location"] == "../studio"
    assert get("/studio", "HEAD").status == 200


def test_nothing_is_loaded_from_elsewhere_or_written_as_markup() -> None:
    sources = [path for path in FOLDER.rglob("*") if path.suffix in (".html", ".css", ".js")]
    for path in sources:
        text = path.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), path
    assert sum(len(path.read_text().splitlines()) for path in sources) <= MOST_LINES


def test_texts_are_in_one_file() -> None:
    words = re.sub(r"<!--.*?-->", "", Path(FOLDER / "index.html").read_text(), flags=re.DOTALL)
    words = re.sub(r"<[^>]*>", " ", words).split()
    assert sorted(set(words)) == ["FireEdit", "Python", "Studio", "curl"], "names only"
