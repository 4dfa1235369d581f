"""Settings of a job's folder: those of another job are refused."""

from pathlib import Path

import pytest

from fireedit.platform.job_folder import JobFolderError, require_settings, save_settings


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    out = str(tmp_path)
    assert not require_settings(out, {"seed": 0}, "rows")
    save_settings(out, {"seed": 0, "sources": "ab"})
    assert require_settings(out, {"seed": 0}, "rows")
    with pytest.raises(JobFolderError, match="seed 0, not 1; write another --out"):
        require_settings(out, {"seed": 1}, "rows")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.parquet").touch()
    with pytest.raises(JobFolderError, match="no edit.json"):
        require_settings(str(tmp_path), {}, "rows")
