"""API keys: who may use the service, how often a minute and a day. `python -m fireedit.serve.keys NAME` makes one."""

import asyncio
import hashlib
import hmac
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayError

from fireedit.serve.errors import Refused, Unauthorized

logger = logging.getLogger("ray.serve")

VARIABLE = "FIREEDIT_API_KEYS"
DAY_S, MINUTE_S = 86_400, 60
LEDGER_TIMEOUT_S = 1.0
"""Seconds after which a gateway counts for itself: while the ledger's actor starts again, with its counts at zero."""
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<digest>[0-9a-f]{64}):(?P<rate>[0-9]{1,9}):(?P<quota>[0-9]{1,9})"
)


class KeysError(ValueError):
    """Keys that cannot be used; the message says where and what to write."""


@dataclass(frozen=True, kw_only=True)
class KeysConfig:
    """Source of the API keys. Without keys everybody is let in, so the service then binds to loopback only."""

    file: str = ""
    """Local file of one key a line, `name:sha256:requests a minute:requests a day`, where 0 is no limit and # begins a
    comment; empty takes the lines of the environment variable FIREEDIT_API_KEYS."""


@dataclass(frozen=True)
class Key:
    """API key."""

    name: str
    digest: bytes
    """SHA-256 of the secret."""
    rate: int
    """Requests a minute; 0 is no limit."""
    quota: int
    """Requests a day (UTC); 0 is no limit."""


@dataclass
class Use:
    """Use of one key until now."""

    tokens: float = 0.0
    """Requests that may follow at once; refilled at the rate."""
    refilled: float = 0.0
    """Seconds of the clock; far in the past at first, so that the first request finds all of them."""
    day: int = -1
    used: int = 0
    """Requests of the day."""

    def spend(self, rate: int, quota: int, now: float) -> Refused | None:
        """Count a request, or return why it is over rate or quota."""
        if rate:
            per_second, idle_s = rate / MINUTE_S, now - self.refilled
            self.tokens, self.refilled = min(rate, self.tokens + idle_s * per_second), now
            if self.tokens < 1:
                retry_after_s = (1 - self.tokens) / per_second
                return Refused("rate", f"this key may send {rate} requests a minute", retry_after_s)
        day, since_midnight = divmod(now, DAY_S)
        if day != self.day:
            self.day, self.used = int(day), 0
        if quota and self.used >= quota:
            return Refused("quota", f"this key may send {quota} requests a day", DAY_S - since_midnight)
        self.tokens, self.used = self.tokens - 1, self.used + 1
        return None


class Ledger:
    """Use of all keys; an actor of Ray where several gateways share it."""

    def __init__(self, clock: Callable[[], float] = time.time):
        self._clock, self._uses = clock, dict[str, Use]()

    def spend(self, name: str, rate: int, quota: int) -> Refused | None:
        """Count a request of a key, or return why it is refused."""
        return self._uses.setdefault(name, Use()).spend(rate, quota, self._clock())


class Keys:
    """API keys of a service."""

    def __init__(self, keys: Iterable[Key], clock: Callable[[], float] = time.time):
        self._keys, self._own_ledger = tuple(keys), Ledger(clock)
        self._shared_ledger: Any = None

    def __bool__(self) -> bool:
        return bool(self._keys)

    def share_ledger(self) -> None:
        """Count in one actor for all gateways of this Ray, which outlives them."""
        options = {"name": "fireedit-keys", "namespace": "serve", "lifetime": "detached", "get_if_exists": True}
        if self._keys:
            self._shared_ledger = ray.remote(Ledger).options(num_cpus=0, max_restarts=-1, **options).remote()

    @classmethod
    def load(cls, config: KeysConfig) -> Self:
        """Read the configured keys.

        Raises:
            KeysError: no such file, or a line that is no key.
        """
        if not config.file:
            return cls(parse_keys(os.environ.get(VARIABLE, ""), VARIABLE))
        try:
            text = Path(config.file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise KeysError(f"keys.file: cannot read {config.file!r} ({type(error).__name__})") from None
        keys = parse_keys(text, config.file)
        if not keys:
            raise KeysError(f"{config.file}: found no key; add the line that python -m fireedit.serve.keys NAME prints")
        return cls(keys)

    async def check(self, authorization: str | None) -> str:
        """Let a request in and count it; returns the name of its key, empty without keys.

        Raises:
            Unauthorized: no key, or none of the known ones.
            Refused: the key is over its rate or quota.
        """
        if not self._keys:
            return ""
        key = self._find(authorization)
        if (refused := await self._spend(key)) is not None:
            raise refused
        return key.name

    def owner(self, authorization: str | None) -> str:
        """Name the key of a request that is not counted; empty without keys.

        Raises:
            Unauthorized: no key, or none of the known ones.
        """
        return self._find(authorization).name if self._keys else ""

    def _find(self, authorization: str | None) -> Key:
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthorized("found no API key; send the header Authorization: Bearer KEY")
        digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]  # the same time for every key
        if not matches:
            raise Unauthorized("the API key is not known; send one that the service's owner gave you")
        return matches[0]

    async def _spend(self, key: Key) -> Refused | None:
        spending = key.name, key.rate, key.quota
        if self._shared_ledger is not None and (key.rate or key.quota):
            try:
                async with asyncio.timeout(LEDGER_TIMEOUT_S):
                    return await self._shared_ledger.spend.remote(*spending)
            except (TimeoutError, RayError) as error:
                logger.warning("counting the use of keys here: the shared ledger met %s", type(error).__name__)
        return self._own_ledger.spend(*spending)


def parse_keys(text: str, where: str) -> list[Key]:
    """Parse lines of `name:sha256:rate:quota`; an error names the line, not its content."""
    keys: list[Key] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not (entry := line.partition("#")[0].strip()):
            continue
        if not (found := _LINE.fullmatch(entry)):
            raise KeysError(f"{where}: line {number}: write name:sha256:requests a minute:requests a day")
        keys.append(Key(found["name"], bytes.fromhex(found["digest"]), int(found["rate"]), int(found["quota"])))
    return keys


def make_key(name: str, rate: int = 0, quota: int = 0) -> tuple[str, str]:
    """Make a key and the line that admits it; only the line is to be stored."""
    secret = f"sk-{secrets.token_urlsafe(32)}"
    line = f"{name}:{hashlib.sha256(secret.encode()).hexdigest()}:{rate}:{quota}"
    if not _LINE.fullmatch(line):
        raise KeysError(f"found the name {name[:40]!r}; write letters, digits, dots, dashes and underscores")
    return secret, line


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4:
        sys.exit("usage: python -m fireedit.serve.keys NAME [REQUESTS_A_MINUTE [REQUESTS_A_DAY]]")
    print("\n".join(make_key(sys.argv[1], *map(int, sys.argv[2:]))))
