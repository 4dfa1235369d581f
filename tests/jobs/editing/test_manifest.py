"""Records of finished rows outlive a kill, and a folder keeps the pictures of one job."""

from pathlib import Path
from typing import Any

from fireedit.jobs.editing.manifest import Manifest


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
