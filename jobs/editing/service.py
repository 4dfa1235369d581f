"""Client of a running service: one edit a call, repeated while the service is full or away."""

import base64
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
from requests.exceptions import ChunkedEncodingError

from fireedit.jobs.editing import pictures
from fireedit.jobs.editing.manifest import Record
from fireedit.jobs.editing.many import ManyEdits, Todo, run
from fireedit.jobs.editing.sources import EditRow, Sources
from fireedit.platform import storage
from fireedit.platform.console import say

EDITS, MODELS = "/v1/images/edits", "/v1/models"
FULL = (429, 503)
"""Statuses that ask for another attempt later."""
ATTEMPTS = 3
"""Attempts of an edit that fails in the service."""
PATIENCE_S = 600.0
"""Seconds that a service may be away, before the job is given up."""
FIRST_PATIENCE_S = 120.0
"""Seconds in which a service must answer for the first time: it may be starting."""
LONGEST_WAIT_S = 60.0
ROWS_AT_ONCE = 8
"""Rows that are read at a time."""
TIMEOUT_S = 3600.0
"""Seconds for one edit; a service sets its own limit, which is shorter."""


class ServiceError(OSError):
    """The service cannot be reached, or refuses this client."""


class EditRefused(ValueError):
    """The service refuses an edit, or fails at it again and again."""


@dataclass(frozen=True)
class Answer:
    """Edited picture as the service encoded it."""

    data: bytes
    regions: int | None
    """Regions that the VLM read; None if the service does not say."""


@dataclass
class Service:
    """Service of an address, such as http://127.0.0.1:8000; may be used by several threads."""

    url: str
    key: str = ""
    """API key; empty for a service without keys."""
    sleep: Callable[[float], None] = time.sleep
    session: requests.Session = field(default_factory=requests.Session)
    answered: bool = False
    """Truth of an earlier answer."""

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        self.session.trust_env = urlsplit(self.url).hostname not in ("127.0.0.1", "localhost", "::1")
        if self.key:
            self.session.headers["Authorization"] = f"Bearer {self.key}"

    def model(self) -> str:
        """Ask for the name of the served model.

        Raises:
            ServiceError: the service does not answer, or refuses this client.
        """
        try:
            return self._repeated(lambda: self.session.get(self.url + MODELS, timeout=30)).json()["data"][0]["id"]
        except (EditRefused, LookupError, TypeError, requests.JSONDecodeError) as error:
            raise ServiceError(f"{self.url}{MODELS} names no model: {error}; write the address of a service") from None

    def edit(self, picture: bytes, fields: Mapping[str, Any], mask: np.ndarray | None = None) -> Answer:
        """Edit one picture.

        Args:
            fields: of the form; None is left out.
            mask: uint8 [H, W], 255 where the picture may change.
        Raises:
            EditRefused: this edit is refused or fails.
            ServiceError: the service is away for too long, or refuses this client.
        """
        form = {name: str(value) for name, value in fields.items() if value is not None}
        files = {"image": ("image", picture)}
        if mask is not None:
            files["mask"] = ("mask.png", pictures.encode_mask(mask))
        answer = self._repeated(lambda: self.session.post(self.url + EDITS, form, files=files, timeout=(10, TIMEOUT_S)))
        try:
            body = answer.json()
            regions = body.get("regions")
            data = base64.b64decode(body["data"][0]["b64_json"], validate=True)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EditRefused(f"the service's answer holds no picture: {error!r}") from None
        return Answer(data, None if regions is None else len(regions))

    def _repeated(self, send: Callable[[], requests.Response]) -> requests.Response:
        """Send until the service answers for good."""
        failures, away_since = 0, None
        while True:
            try:
                answer = send()
            except (requests.ConnectionError, requests.Timeout, ChunkedEncodingError) as error:
                patience_s = PATIENCE_S if self.answered else FIRST_PATIENCE_S
                if away_since is None:
                    away_since = time.monotonic()
                    say(f"{self.url} does not answer; waiting for it for {patience_s:.0f} s")
                if time.monotonic() - away_since > patience_s:
                    raise ServiceError(f"{self.url} has not answered for {patience_s:.0f} s: {error}") from None
                self._wait(None)
                continue
            away_since, self.answered = None, True
            if answer.status_code in FULL:
                self._wait(answer.headers.get("Retry-After"))
                continue
            if answer.ok:
                return answer
            message = f"{answer.status_code}: {_message(answer)}"
            if answer.status_code in (401, 403):
                raise ServiceError(f"{self.url}: {message}; write the key into FIREEDIT_API_KEY or --api-key-file")
            failures += 1
            if (answer.status_code < 500 and answer.status_code != 408) or failures == ATTEMPTS:
                raise EditRefused(message)
            self._wait(None)

    def _wait(self, retry_after: str | None) -> None:
        """Wait as long as the service asks for, and a little more, so that not all clients come back at once."""
        try:
            seconds = float(retry_after or 1.0)
        except ValueError:  # a date
            seconds = 1.0
        if seconds > LONGEST_WAIT_S:
            say(f"the service asks to wait for {seconds:.0f} s; asking again every {LONGEST_WAIT_S:.0f} s")
        self.sleep(min(max(seconds, 0.1), LONGEST_WAIT_S) * random.uniform(1.0, 1.2))


def connect(url: str, key_file: str = "") -> Service:
    """Make the client of a service, with the API key of a file, or of FIREEDIT_API_KEY if none is named."""
    key = storage.read_bytes(key_file).decode() if key_file else os.environ.get("FIREEDIT_API_KEY", "")
    return Service(url, key.strip())


def edit_many(edits: ManyEdits, service: Service, concurrency: int) -> dict[str, Any]:
    """Edit many pictures through a service, `concurrency` at a time; see `many.run`.

    Raises:
        ServiceError: the service cannot be reached, or refuses this client; started again, the job goes on.
    """
    changes = {name: value for name, value in edits.changes.items() if value is not None}
    made_with = {"weights": f"served as {service.model()}", "settings": changes}

    def edit(row: EditRow) -> Record:
        began, answer = time.monotonic(), Answer(b"", None)
        if not row.error:
            fields = form_fields(row.instruction, row.seed, edits.file_format, edits.size, changes)
            try:
                answer = service.edit(row.data, fields)
            except EditRefused as error:
                row.error = str(error)
        seconds = time.monotonic() - began
        return pictures.write_row(row, answer.data, edits.out, edits.file_format, seconds, answer.regions)

    def editor(sources: Sources, todo: Todo) -> Iterator[Sequence[Record]]:
        with ThreadPoolExecutor(concurrency) as pool:
            running = set[Future[Record]]()
            for row in _rows(sources, todo):
                running.add(pool.submit(edit, row))
                if len(running) >= concurrency:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield [each.result() for each in done]
            yield [each.result() for each in running]

    return run(edits, made_with, editor)


def _rows(sources: Sources, todo: Todo) -> Iterator[EditRow]:
    for group, places in todo:
        for rows in sources.read(group, places, ROWS_AT_ONCE):
            yield from rows


def form_fields(
    instruction: str, seed: int, file_format: str, size: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Build the fields of an edit's form; JPEGs get the quality of those that are made without a service."""
    quality = None if file_format == "png" else pictures.QUALITY
    fields = {"prompt": instruction, "seed": seed, "size": size, "return_regions": "true"}
    return fields | {"output_format": file_format, "output_compression": quality} | dict(settings)


def _message(answer: requests.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return answer.text[:200] or answer.reason
