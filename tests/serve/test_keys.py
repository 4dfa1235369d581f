"""API keys: none, wrong, right, too often, too many."""

import asyncio
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayError

from fireedit.serve.errors import Refused, Unauthorized, answer_to
from fireedit.serve.gateway import refuse_strangers
from fireedit.serve.keys import DAY_S, VARIABLE, Keys, KeysConfig, KeysError, make_key, parse_keys

SECRET, LINE = make_key("ann", rate=60, quota=100)
OTHER, OTHER_LINE = make_key("bob")


def check(keys: Keys, authorization: str | None) -> None:
    asyncio.run(keys.check(authorization))


class Clock:
    now = 1.7e9 // DAY_S * DAY_S

    def __call__(self) -> float:
        return self.now


def test_none_wrong_and_right_key() -> None:
    keys = Keys(parse_keys(f"# ours\n\n{LINE}  # ann's\n{OTHER_LINE}", "here"))
    for header in (None, "", "Bearer", f"Basic {SECRET}", SECRET):
        with pytest.raises(Unauthorized, match="found no API key"):
            check(keys, header)
    for wrong in ("x", SECRET[:-1], LINE, LINE.split(":")[1], "é\udcff"):
        with pytest.raises(Unauthorized, match="not known") as error:
            check(keys, f"Bearer {wrong}")
        assert wrong not in str(error.value)
    check(keys, f"Bearer {SECRET}")
    check(keys, f"bearer  {OTHER} ")


def test_no_keys_let_everybody_in() -> None:
    check(Keys([]), None)
    assert Keys([]).owner(None) == ""


def test_the_owner_of_a_key_is_told_without_counting() -> None:
    keys = Keys(parse_keys(f"{LINE}\n{OTHER_LINE}", "here"))
    assert {keys.owner(f"Bearer {SECRET}") for _ in range(200)} == {"ann"}
    assert asyncio.run(keys.check(f"Bearer {OTHER}")) == "bob"
    with pytest.raises(Unauthorized):
        keys.owner("Bearer wrong")


def test_rate_is_a_bucket_that_refills() -> None:
    keys = Keys(parse_keys(LINE, "here"), clock := Clock())
    for _ in range(60):
        check(keys, f"Bearer {SECRET}")
    with pytest.raises(Refused, match="60 requests a minute") as refused:
        check(keys, f"Bearer {SECRET}")
    assert (refused.value.reason, refused.value.retry_after_s) == ("rate", 1)
    clock.now += 2.5
    for _ in range(2):
        check(keys, f"Bearer {SECRET}")
    with pytest.raises(Refused, match="minute"):
        check(keys, f"Bearer {SECRET}")


def test_quota_ends_with_the_day() -> None:
    keys = Keys(parse_keys(LINE, "here"), clock := Clock())
    for _ in range(100):
        clock.now += 10
        check(keys, f"Bearer {SECRET}")
    with pytest.raises(Refused, match="100 requests a day") as refused:
        check(keys, f"Bearer {SECRET}")
    assert refused.value.retry_after_s == DAY_S - 1000
    answer = answer_to(refused.value, "id")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (429, "false")
    clock.now += DAY_S
    check(keys, f"Bearer {SECRET}")


def test_keys_come_from_file_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "keys").write_text(LINE)
    check(Keys.load(KeysConfig(file=str(file))), f"Bearer {SECRET}")
    monkeypatch.setenv(VARIABLE, OTHER_LINE)
    check(Keys.load(KeysConfig()), f"Bearer {OTHER}")
    with pytest.raises(KeysError, match="cannot read"):
        Keys.load(KeysConfig(file=str(tmp_path / "none")))
    file.write_text("# nothing yet")
    with pytest.raises(KeysError, match="found no key"):
        Keys.load(KeysConfig(file=str(file)))


@pytest.mark.parametrize(
    "line",
    [SECRET, f"ann:{SECRET}:0:0", LINE.rpartition(":")[0], LINE + ":1", "a b" + LINE],
    ids=["the key itself", "the key as its hash", "three fields", "five fields", "a name with a space"],
)
def test_bad_line_is_named_and_not_shown(line: str) -> None:
    with pytest.raises(KeysError, match="here: line 2: write name:sha256") as error:
        parse_keys(f"{OTHER_LINE}\n{line}", "here")
    assert line not in str(error.value)


def test_service_without_keys_binds_to_loopback_only() -> None:
    keys = Keys(parse_keys(LINE, "here"))
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8", None):
        refuse_strangers(host, Keys([]))
    for host in ("", "0.0.0.0", "::", "192.168.0.7", "example.org"):
        refuse_strangers(host, keys)
        with pytest.raises(KeysError, match="no API key; set keys.file"):
            refuse_strangers(host, Keys([]))


@pytest.mark.ray
def test_gateways_share_the_count_and_go_on_without_the_ledger(ray_session: None) -> None:
    secret, line = make_key("carl", quota=3)
    gateways = [Keys(parse_keys(line, "here")) for _ in range(2)]

    async def use() -> None:
        for keys in gateways:
            keys.share_ledger()
        ledger = ray.get_actor("fireedit-keys", namespace="serve")
        await ledger.__ray_ready__.remote()  # a gateway does not wait for it for long
        for number in range(3):
            await gateways[number % 2].check(f"Bearer {secret}")
        for keys in gateways:
            with pytest.raises(Refused, match="3 requests a day"):
                await keys.check(f"Bearer {secret}")
        ray.kill(ledger)
        with pytest.raises(RayError):
            while True:  # a killed actor may still answer for a moment
                await ledger.__ray_ready__.remote()
        await gateways[0].check(f"Bearer {secret}")

    asyncio.run(use())
