"""Writers tell the same figures, also of a run that was resumed; a person's line holds the most important."""

import time
from pathlib import Path

import pytest
import ray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ImageEvent, ScalarEvent

from fireedit.platform import storage
from fireedit.platform.cluster import local_session
from fireedit.platform.train.progress import Row, from_lines
from fireedit.platform.train.writers import (
    ConsoleLine,
    MetricsFile,
    RayMetrics,
    TensorBoard,
    Writer,
    progress_line,
    write_all,
)


def row(step: int, loss: float = 0.25, **more: float) -> Row:
    figures = {"lr": 1e-5, "grad_norm": 0.71, "samples_per_s": 3.21, "data_wait_share": 0.04}
    return {"step": step, "loss": loss, "img": loss / 2, **figures, "loss/edits": loss, **more}


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder of a run, on disk and in a bucket."""
    if request.param == "local":
        return str(tmp_path / "run")
    return storage.join(request.getfixturevalue("s3"), tmp_path.name, "run")


def events(folder: str) -> EventAccumulator:
    """Read a folder's event files as TensorBoard does."""
    with storage.reading_folder(folder) as local:
        accumulator = EventAccumulator(str(local))
        accumulator.Reload()
    return accumulator


def scalars(folder: str, name: str) -> list[tuple[int, float]]:
    found: list[ScalarEvent] = events(folder).Scalars(name)
    return [(event.step, event.value) for event in found]


def sitting(folder: str, start: int, steps: range, loss: float) -> list[Writer]:
    """Write the reports of a sitting; the last writers are not closed, as in a killed process."""
    writers: list[Writer] = [
        ConsoleLine(9),
        MetricsFile(storage.join(folder, "metrics.jsonl"), start),
        TensorBoard(storage.join(folder, "tensorboard"), start),
    ]
    for step in steps:
        write_all(writers, row(step, loss * step))
    return writers


def test_every_writer_has_the_same_losses(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    for writer in sitting(folder, 0, range(1, 4), loss=0.125):
        writer.close()
    rows = from_lines(storage.read_bytes(storage.join(folder, "metrics.jsonl")))
    assert [(found["step"], found["loss"]) for found in rows] == [(1, 0.125), (2, 0.25), (3, 0.375)]
    board = storage.join(folder, "tensorboard")
    assert scalars(board, "loss") == scalars(board, "loss/edits") == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert set(events(board).Tags()["scalars"]) == set(rows[0]) - {"step"}
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    assert [line.split()[:4] for line in lines][-1] == ["step", "3/9", "loss", "0.3750"]


def test_a_killed_and_resumed_run_has_every_step_once(folder: str) -> None:
    """It is killed after step 4 and resumes after step 2: later rows are of work that was lost."""
    sitting(folder, 0, range(1, 5), loss=0.125)
    for writer in sitting(folder, 2, range(3, 6), loss=0.25):
        writer.close()
    expected = [(1, 0.125), (2, 0.25), (3, 0.75), (4, 1.0), (5, 1.25)]
    rows = from_lines(storage.read_bytes(storage.join(folder, "metrics.jsonl")))
    assert [(found["step"], found["loss"]) for found in rows] == expected
    assert scalars(storage.join(folder, "tensorboard"), "loss") == expected


def test_pictures_are_shown_on_tensorboard(folder: str) -> None:
    board = TensorBoard(folder)
    board.picture("samples", 7, Image.new("RGB", (6, 4), (255, 0, 0)))
    board.close()
    found: list[ImageEvent] = events(folder).Images("samples")
    assert [(event.step, event.width, event.height) for event in found] == [(7, 6, 4)]


def test_reports_are_there_before_the_run_ends(folder: str) -> None:
    sitting(folder, 0, range(1, 3), loss=0.5)
    assert scalars(storage.join(folder, "tensorboard"), "loss") == [(1, 0.5), (2, 1.0)]
    assert len(from_lines(storage.read_bytes(storage.join(folder, "metrics.jsonl")))) == 2


def test_a_line_tells_a_person_losses_speed_and_the_time_left() -> None:
    line = progress_line(row(1200, left_s=4320.0, mfu=0.183, peak_memory_gb=31.25), 25000)
    assert line == (
        "step   1200/25000  loss 0.2500 (img 0.1250)  lr 1.0e-05  grad 0.71  3.2 samples/s  wait 4%  MFU 18%  31.2 GB"
        "  left 1h12m"
    )
    assert progress_line(row(7), None).startswith("step      7  loss 0.2500 ")
    assert progress_line(row(7), None).endswith("wait 4%")


def test_a_gauge_takes_the_name_of_any_corpus() -> None:
    """Ray warns of a name that Prometheus does not allow, and drops it."""
    RayMetrics("run").write({"loss/my-corpus.v2": 1.0})


@pytest.mark.ray
def test_prometheus_gets_the_last_loss(ray_session: None) -> None:
    for step, loss in ((1, 0.5), (2, 0.375)):
        RayMetrics("prometheus").write(row(step, loss))
    port, found = ray.nodes()[0]["MetricsExportPort"], ""
    deadline = time.monotonic() + 30
    while not found and time.monotonic() < deadline:
        text = local_session().get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
        gauges = [line for line in text.splitlines() if line.startswith("ray_fireedit_train_loss{")]
        found = next((line for line in gauges if 'run="prometheus"' in line and line.endswith(" 0.375")), "")
        time.sleep(0.2)
    assert found
