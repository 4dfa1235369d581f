"""Progress of many pictures: what is done, failed and left, earlier starts included."""

import pytest

from fireedit.platform.picture_progress import PictureProgress


def test_progress_counts_what_is_done_failed_and_left(capsys: pytest.CaptureFixture[str]) -> None:
    progress = PictureProgress(4)
    assert progress.line().split() == ["0/4", "0.00", "pictures/s", "0", "failed", "left", "unknown"]
    progress.update(made=1, failed=1)
    assert progress.line().startswith("      2/4") and "1 failed" in progress.line()
    progress.close()
    assert "2/4" in capsys.readouterr().err


def test_a_later_start_counts_earlier_pictures_but_not_their_speed() -> None:
    progress = PictureProgress(4, made=2, failed=1)
    assert progress.line().split() == ["3/4", "0.00", "pictures/s", "1", "failed", "left", "unknown"]
