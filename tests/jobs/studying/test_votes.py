"""Votes: kept once, under concurrent participants, in the database of one study."""

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fireedit.jobs.studying import votes as votes_module
from fireedit.jobs.studying.study_folder import StudyError
from fireedit.jobs.studying.votes import Vote, Votes, database_at


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database; PostgreSQL's only where $FIREEDIT_POSTGRES names a server to try."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/votes.db"
    if not (server := os.environ.get("FIREEDIT_POSTGRES")):
        pytest.skip("needs FIREEDIT_POSTGRES=postgresql://USER@HOST/DATABASE and psycopg")
    schema = f"votes_{uuid.uuid4().hex}"
    with database_at(server).transaction() as run:
        run(f"CREATE SCHEMA {schema}")
    return f"{server}?options=-csearch_path%3D{schema}"


def vote(participant: int, question: str, picture: str = "p") -> Vote:
    return Vote(participant, question, picture, place=0, seconds=1.5)


def test_the_first_answer_stays(address: str) -> None:
    votes = Votes.open(address, "s")
    (token,) = votes.invite(1)
    assert votes.participant(token).number is None and votes.participant("x") is None
    votes.consent(token)
    votes.consent(token)
    for picture in ("first", "second"):
        votes.add(vote(0, "q", picture))
    assert votes.participant(token).choices == {"q": "first"} and votes.participant(token).number == 0
    assert Votes.open(address, "s").all() == [vote(0, "q", "first")]


def test_concurrent_participants_get_numbers_without_gaps_and_lose_no_vote(address: str) -> None:
    tokens = Votes.open(address, "s").invite(16)

    def take_part(token: str) -> None:
        votes = Votes.open(address, "s")
        votes.consent(token)
        number = votes.participant(token).number
        for question in range(10):
            votes.add(vote(number, f"q{question}"))
            votes.add(vote(number, f"q{question}", "again"))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(take_part, tokens + tokens))
    kept = Votes.open(address, "s").all()
    assert {each.participant for each in kept} == set(range(16)) and len(kept) == 160


def test_sqlite_is_in_wal_mode(tmp_path: Path) -> None:
    Votes.open(f"sqlite:///{tmp_path}/votes.db", "s")
    with contextlib.closing(sqlite3.connect(tmp_path / "votes.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_open_link_has_an_end(address: str) -> None:
    votes = Votes.open(address, "s")
    votes.invite(3)
    tokens = [votes.join(2) for _ in range(3)]
    assert None not in tokens[:2] and tokens[2] is None


def test_other_studies_and_addresses_are_refused(address: str, tmp_path: Path) -> None:
    Votes.open(address, "s")
    (tmp_path / "text").write_text("no database " * 100)
    for wrong, message in (
        (address, "found votes of another study; write another database"),
        ("mysql://host/db", "write sqlite:///PATH or postgresql://"),
        ("sqlite:///", "write sqlite:///PATH"),
        (f"sqlite:///{tmp_path}/none/votes.db", "none is no folder"),
        (f"sqlite:///{tmp_path}/text", "file is not a database"),
    ):
        with pytest.raises(StudyError, match=message):
            Votes.open(wrong, "other")


def test_postgresql_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(votes_module.importlib, "import_module", missing)
    with pytest.raises(StudyError, match=r"needs psycopg; run pip install 'psycopg\[binary\]'"):
        database_at("postgresql://anyone@host/votes")


def test_a_failed_transaction_leaves_nothing(address: str) -> None:
    votes = Votes.open(address, "s")

    def fail(run: Callable[..., object]) -> None:
        run("INSERT INTO participants (token, invited) VALUES ('t', 1)")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        votes._write(fail)
    assert votes.participant("t") is None
