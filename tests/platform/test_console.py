"""Messages go to stderr, so that stdout holds JSON alone."""

import pytest

from fireedit.platform.console import say


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("step 1")
    assert capsys.readouterr() == ("", "step 1\n")
