"""API keys: none, wrong, right, too often, too many."""

from pathlib import Path

import pytest

from fireedit.serve.errors import Refused, Unauthorized, answer_to
from fireedit.serve.gateway import refuse_strangers
from fireedit.serve.keys import DAY_S, VARIABLE, Keys, KeysConfig, KeysError, make_key, parse_keys

SECRET, LINE = make_key("ann", rate=60, quota=100)
OTHER, OTHER_LINE = make_key("bob")


class Clock:
    now = 1.7e9 // DAY_S * DAY_S

    def __call__(self) -> float:
        return self.now


def test_none_wrong_and_right_key() -> None:
    keys = Keys(parse_keys(f"# ours\n\n{LINE}  # ann's\n{OTHER_LINE}", "here"))
    for header in (None, "", "Bearer", f"Basic {SECRET}", SECRET):
        with pytest.raises(Unauthorized, match="found no API key"):
            keys.check(header)
    for wrong in ("x", SECRET[:-1], LINE, LINE.split(":")[1], "é\udcff"):
        with pytest.raises(Unauthorized, match="not known") as error:
            keys.check(f"Bearer {wrong}")
        assert wrong not in str(error.value)
    keys.check(f"Bearer {SECRET}")
    keys.check(f"bearer  {OTHER} ")


def test_no_keys_let_everybody_in() -> None:
    Keys([]).check(None)


def test_rate_is_a_bucket_that_refills() -> None:
    keys = Keys(parse_keys(LINE, "here"), clock := Clock())
    for _ in range(60):
        keys.check(f"Bearer {SECRET}")
    with pytest.raises(Refused, match="60 requests a minute") as refused:
        keys.check(f"Bearer {SECRET}")
    assert (refused.value.reason, refused.value.retry_after_s) == ("rate", 1)
    clock.now += 2.5
    for _ in range(2):
        keys.check(f"Bearer {SECRET}")
    with pytest.raises(Refused, match="minute"):
        keys.check(f"Bearer {SECRET}")


def test_quota_ends_with_the_day() -> None:
    keys = Keys(parse_keys(LINE, "here"), clock := Clock())
    for _ in range(100):
        clock.now += 10
        keys.check(f"Bearer {SECRET}")
    with pytest.raises(Refused, match="100 requests a day") as refused:
        keys.check(f"Bearer {SECRET}")
    assert refused.value.retry_after_s == DAY_S - 1000
    answer = answer_to(refused.value, "id")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (429, "false")
    clock.now += DAY_S
    keys.check(f"Bearer {SECRET}")


def test_keys_come_from_file_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "keys").write_text(LINE)
    Keys.load(KeysConfig(file=str(file))).check(f"Bearer {SECRET}")
    monkeypatch.setenv(VARIABLE, OTHER_LINE)
    Keys.load(KeysConfig()).check(f"Bearer {OTHER}")
    with pytest.raises(KeysError, match="cannot read"):
        Keys.load(KeysConfig(file=str(tmp_path / "none")))
    file.write_text("# nothing yet")
    with pytest.raises(KeysError, match="found no key"):
        Keys.load(KeysConfig(file=str(file)))


@pytest.mark.parametrize("line", [SECRET, f"ann:{SECRET}:0:0", LINE.rpartition(":")[0], LINE + ":1", "a b" + LINE])
def test_bad_line_is_named_and_not_shown(line: str) -> None:
    with pytest.raises(KeysError, match="here: line 2: write name:sha256") as error:
        parse_keys(f"{OTHER_LINE}\n{line}", "here")
    assert line not in str(error.value)


def test_service_without_keys_binds_to_loopback_only() -> None:
    keys = Keys(parse_keys(LINE, "here"))
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8", None):
        refuse_strangers(host, Keys([]))
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        refuse_strangers(host, keys)
        with pytest.raises(KeysError, match="no API key; set keys.file"):
            refuse_strangers(host, Keys([]))
