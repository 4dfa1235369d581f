"""Messages go to stderr, so that stdout holds JSON alone."""

import pytest

from fireedit.platform.console import say, show


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("step 1")
    assert capsys.readouterr() == ("", "step 1\n")


def test_replaceable_lines_are_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    show("step 1 ...")
    assert capsys.readouterr() == ("", "")
