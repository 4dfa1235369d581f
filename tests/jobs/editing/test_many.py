"""Jobs are begun, interrupted and resumed, here and on S3, without doing any row twice."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fireedit.jobs.editing.manifest import Record
from fireedit.jobs.editing.many import Editor, ManyEdits, Todo, run
from fireedit.jobs.editing.pictures import write_row
from fireedit.jobs.editing.sources import Sources, SourcesError
from fireedit.platform import storage
from fireedit.platform.images import encode_png
from fireedit.platform.job_folder import JobFolderError
from tests.factories import picture

PNG = encode_png(picture(1))
WEIGHTS = {"weights": "ab"}


class KilledError(Exception):
    """End of a job in its middle."""


def copying(out: str, most: int = 100) -> tuple[Editor, list[str]]:
    """Make an editor that writes each picture as it is, and ends after `most`; also returns the ids that it edited."""
    done = list[str]()

    def edit(sources: Sources, todo: Todo) -> Iterator[Sequence[Record]]:
        for group, places in todo:
            for rows in sources.read(group, places, 2):
                if len(done) >= most:
                    raise KilledError
                done.extend(row.id for row in rows if not row.error)
                yield [write_row(row, row.data, out, "png", 0.1, 3) for row in rows]

    return edit, done


def counts(report: dict[str, Any]) -> tuple[int, int, int]:
    return report["edited"], report["failed"], report["skipped"]


def test_a_job_on_s3_goes_on_where_it_was_interrupted(s3: str) -> None:
    source, out = storage.join(s3, "many", "set", "a.parquet"), storage.join(s3, "many", "out")
    sink = pa.BufferOutputStream()
    storage.write_bytes(storage.join(s3, "many", "set", "x.png"), PNG)
    table = pa.table({"image": ["x.png"] * 6 + ["gone.png"], "prompt": ["red"] * 7, "id": list("abcdefg")})
    pq.write_table(table, sink, row_group_size=4)
    storage.write_bytes(source, sink.getvalue().to_pybytes())
    edits = ManyEdits(source=source, out=out)
    first, done = copying(out, most=4)
    with pytest.raises(KilledError):
        run(edits, WEIGHTS, first)
    second, rest = copying(out)
    assert counts(run(edits, WEIGHTS, second)) == (2, 1, 4)
    assert (done, rest) == (list("abcd"), list("ef"))
    assert storage.names(storage.join(out, "edited")) == [f"{name}.png" for name in "abcdef"]
    assert counts(run(edits, WEIGHTS, copying(out)[0])) == (0, 1, 6)


def test_failed_rows_are_tried_again_when_that_is_asked_for(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", str(tmp_path / "out")
    folder.mkdir()
    (folder / "texts.csv").write_text("image,instruction\na.png,red\nb.png,red\n")
    (folder / "a.png").write_bytes(PNG)
    asked = {"source": str(folder), "out": out, "instructions": str(folder / "texts.csv")}
    assert counts(run(ManyEdits(**asked), WEIGHTS, copying(out)[0])) == (1, 1, 0)
    (folder / "b.png").write_bytes(PNG)
    assert counts(run(ManyEdits(**asked), WEIGHTS, copying(out)[0])) == (0, 1, 1)
    assert counts(run(ManyEdits(**asked, retry_failed=True), WEIGHTS, copying(out)[0])) == (1, 0, 1)


def test_another_job_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    asked: dict[str, Any] = {"source": str(tmp_path), "out": str(tmp_path / "out"), "instruction": "red"}
    run(ManyEdits(**asked), WEIGHTS, copying(asked["out"])[0])
    for changes, weights in (
        ({"seed": 1}, "ab"),
        ({"instruction": "blue"}, "ab"),
        ({"size": "canvas"}, "ab"),
        ({}, "cd"),
    ):
        with pytest.raises(JobFolderError, match="write another --out"):
            run(ManyEdits(**asked | changes), {"weights": weights}, copying(asked["out"])[0])


def test_instructions_come_from_one_place(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    for given, words in (
        ({"instruction": "red", "column": "text"}, "--instruction and --column"),
        ({}, "no instruction"),
    ):
        with pytest.raises(SourcesError, match=words):
            run(ManyEdits(source=str(tmp_path), out=str(tmp_path / "out"), **given), WEIGHTS, copying("")[0])
