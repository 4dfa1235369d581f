"""Votes of a study in SQLite or PostgreSQL, by the same SQL; each call is one short transaction."""

import contextlib
import importlib
import random
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fireedit.jobs.studying.study_folder import StudyError

TABLES = (
    "CREATE TABLE IF NOT EXISTS studies (one INTEGER PRIMARY KEY, token TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS participants (
        token TEXT PRIMARY KEY, invited INTEGER NOT NULL, number INTEGER UNIQUE, consented DOUBLE PRECISION)""",
    """CREATE TABLE IF NOT EXISTS votes (
        participant INTEGER NOT NULL, question TEXT NOT NULL, picture TEXT NOT NULL, place INTEGER NOT NULL,
        seconds DOUBLE PRECISION NOT NULL, answered DOUBLE PRECISION NOT NULL, PRIMARY KEY (participant, question))""",
)
"""Tables: number counts participants from 0 as they consent, times are seconds since 1970, no name and no address."""
ATTEMPTS = 100
"""Times that a transaction is tried, if another one takes the same number."""
WAIT_S = 30.0
"""Seconds to wait for another transaction."""

Run = Callable[..., list[tuple[Any, ...]]]
"""Function that runs a statement with `?` for its values, and returns the rows."""
T = TypeVar("T")


class Database(Protocol):
    """Database, as votes need it."""

    errors: type[Exception]
    """Base of all that it raises."""
    conflict: type[Exception]
    """Violation of a unique column."""

    def transaction(self) -> AbstractContextManager[Run]:
        """Begin a transaction, which is committed at the end of the block and rolled back by an error."""
        ...


@dataclass
class SqliteDatabase:
    """File of SQLite in WAL mode: readers never wait, writers wait for one another."""

    path: str
    errors: type[Exception] = sqlite3.Error
    conflict: type[Exception] = sqlite3.IntegrityError

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Run]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            yield lambda statement, *values: connection.execute(statement, values).fetchall()
            connection.execute("COMMIT")


class PostgresDatabase:
    """Database of PostgreSQL, for servers on several machines."""

    def __init__(self, address: str):
        try:
            self.psycopg: Any = importlib.import_module("psycopg")
        except ImportError:
            raise StudyError(f"--db {address}: needs psycopg; run pip install 'psycopg[binary]'") from None
        self.address, self.errors, self.conflict = address, self.psycopg.Error, self.psycopg.errors.UniqueViolation

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Run]:
        with self.psycopg.connect(self.address, connect_timeout=int(WAIT_S)) as connection:

            def run(statement: str, *values: Any) -> list[tuple[Any, ...]]:
                cursor = connection.execute(statement.replace("?", "%s"), values)
                return cursor.fetchall() if cursor.description else []

            yield run


@dataclass(frozen=True)
class Participant:
    """Participant, as far as a study knows one."""

    number: int | None
    """Count of those who consented before; None until then."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """Token of the chosen picture by token of the question."""


@dataclass(frozen=True)
class Vote:
    """Answer of a participant to a question."""

    participant: int
    question: str
    picture: str
    place: int
    """Place at which the picture stood, from 0."""
    seconds: float
    """Time that the question was shown, as the browser measured it."""


class Votes:
    """Participants and votes of one study."""

    def __init__(self, database: Database):
        self.database = database

    @classmethod
    def open(cls, address: str, study: str) -> "Votes":
        """Open a database, and make its tables if it has none.

        Args:
            address: `sqlite:///PATH` or `postgresql://...`.
            study: token of the study, which stays the only one in the database.
        Raises:
            StudyError: the address cannot be used, or holds votes of another study.
        """
        database = database_at(address)
        votes = cls(database)
        try:
            found = votes._write(lambda run: _claim(run, study))
        except database.errors as error:
            raise StudyError(f"--db {address}: {str(error).strip()}; write a database that can be written") from None
        if found != study:
            raise StudyError(f"--db {address}: found votes of another study; write another database")
        return votes

    def invite(self, count: int) -> list[str]:
        """Make participants; returns their tokens."""
        tokens = [secrets.token_hex(16) for _ in range(count)]

        def write(run: Run) -> list[str]:
            for token in tokens:
                run("INSERT INTO participants (token, invited) VALUES (?, 1)", token)
            return tokens

        return self._write(write)

    def join(self, most: int) -> str | None:
        """Make a participant by the open link; returns the token, or None if there are `most` of them."""

        def write(run: Run) -> str | None:
            if run("SELECT COUNT(*) FROM participants WHERE invited = 0")[0][0] >= most:
                return None
            run("INSERT INTO participants (token, invited) VALUES (?, 0)", token := secrets.token_hex(16))
            return token

        return self._write(write)

    def consent(self, token: str) -> None:
        """Give a participant a number, once; numbers have no gaps, so that orders stay balanced."""
        following = "(SELECT COALESCE(MAX(number), -1) + 1 FROM participants)"
        statement = f"UPDATE participants SET number = {following}, consented = ? WHERE token = ? AND number IS NULL"
        self._write(lambda run: run(statement, time.time(), token))

    def participant(self, token: str) -> Participant | None:
        """Look up a participant; None for a token that nobody made."""
        with self.database.transaction() as run:
            if not (found := run("SELECT number FROM participants WHERE token = ?", token)):
                return None
            number = found[0][0]
            return Participant(number, dict(run("SELECT question, picture FROM votes WHERE participant = ?", number)))

    def add(self, vote: Vote) -> None:
        """Keep a vote; a second one of the same participant and question changes nothing."""
        statement = """INSERT INTO votes (participant, question, picture, place, seconds, answered)
            VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (participant, question) DO NOTHING"""
        values = (vote.participant, vote.question, vote.picture, vote.place, vote.seconds, time.time())
        self._write(lambda run: run(statement, *values))

    def all(self) -> list[Vote]:
        """Read all votes, by participant in the order of their answers."""
        columns = "participant, question, picture, place, seconds"
        with self.database.transaction() as run:
            return [Vote(*row) for row in run(f"SELECT {columns} FROM votes ORDER BY participant, answered")]

    def _write(self, work: Callable[[Run], T]) -> T:
        """Run a transaction, again if another one was faster with the same number."""
        for _ in range(ATTEMPTS - 1):
            try:
                with self.database.transaction() as run:
                    return work(run)
            except self.database.conflict:
                time.sleep(random.uniform(0, 0.02))
        with self.database.transaction() as run:
            return work(run)


def database_at(address: str) -> Database:
    """Choose the database of an address, without opening it.

    Raises:
        StudyError: it is neither SQLite's nor PostgreSQL's.
    """
    if address.startswith(("postgresql://", "postgres://")):
        return PostgresDatabase(address)
    path = address.removeprefix("sqlite:///")
    if path == address or not path:
        raise StudyError(f"--db {address}: write sqlite:///PATH or postgresql://USER@HOST/DATABASE")
    if not Path(path).absolute().parent.is_dir():
        raise StudyError(f"--db {address}: {Path(path).parent} is no folder; write one that exists")
    return SqliteDatabase(path)


def _claim(run: Run, study: str) -> str:
    """Make the tables, and note whose they are; returns the token of the study that they belong to."""
    for table in TABLES:
        run(table)
    run("INSERT INTO studies (one, token) VALUES (1, ?) ON CONFLICT (one) DO NOTHING", study)
    return str(run("SELECT token FROM studies")[0][0])
