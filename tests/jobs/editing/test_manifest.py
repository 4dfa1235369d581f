"""Records of finished rows outlive a kill, and a folder keeps the pictures of one job."""

from pathlib import Path
from typing import Any

import pytest

from fireedit.jobs.editing.manifest import Manifest, ManifestError, require_settings, save_settings


def record(row: int, **more: Any) -> dict[str, Any]:
    return {"row": row, "id": f"p{row}", **more}


def test_saved_rows_are_not_done_again(tmp_path: Path) -> None:
    first = Manifest(str(tmp_path), 4)
    first.add([record(0, file="edited/p0.png"), record(2, error="damaged")])
    first.flush()
    first.add([record(3, file="edited/p3.png")])  # killed before it is saved
    second = Manifest(str(tmp_path), 4)
    assert second.todo(retry_failed=False).tolist() == [False, True, False, True]
    assert second.todo(retry_failed=True).tolist() == [False, True, True, True]


def test_a_row_that_failed_and_was_edited_later_counts_as_edited(tmp_path: Path) -> None:
    state = Manifest(str(tmp_path), 1)
    state.add([record(0, error="damaged")])
    state.flush()
    state.add([record(0, file="edited/p0.png")])
    state.flush()
    again = Manifest(str(tmp_path), 1)
    assert again.edited.tolist() == [True] and again.failed.tolist() == [False]


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    out = str(tmp_path)
    assert not require_settings(out, {"seed": 0})
    save_settings(out, {"seed": 0, "sources": "ab"})
    assert require_settings(out, {"seed": 0})
    with pytest.raises(ManifestError, match="seed 0, not 1; write another --out"):
        require_settings(out, {"seed": 1})


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.parquet").touch()
    with pytest.raises(ManifestError, match="no edit.json"):
        require_settings(str(tmp_path), {})
