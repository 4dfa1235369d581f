"""Writers of a run's reports: a line for a person, rows of JSON, TensorBoard, and gauges for Prometheus."""

import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.train.progress import Row, duration, from_lines, to_lines

FIGURES = ("step", "lr", "grad_norm", "samples_per_s", "data_wait_share", "left_s", "mfu", "peak_memory_gb")
"""Names of a row that are no losses; so are those of a single corpus, which have a slash."""


class Writer(Protocol):
    """Callback for a run's reports; only the first worker has any."""

    def write(self, row: Row) -> None:
        """Write a report."""

    def close(self) -> None:
        """Write what is left."""


class ConsoleLine:
    """Line of progress for a person.

    Args:
        steps: steps of the whole run; None if a clock ends it.
    """

    def __init__(self, steps: int | None):
        self.steps = steps

    def write(self, row: Row) -> None:
        say(progress_line(row, self.steps))

    def close(self) -> None:
        """Do nothing: every line is out."""


class MetricsFile:
    """Rows of JSON of all reports of a run, in one file that is always whole.

    Args:
        start: step that the run resumes at; later rows, of work that was lost, are dropped.
    """

    def __init__(self, path: str, start: int):
        self.path = path
        before = from_lines(storage.read_bytes(path)) if storage.exists(path) else []
        self.rows = [row for row in before if row["step"] <= start]

    def write(self, row: Row) -> None:
        self.rows.append(row)
        storage.write_bytes(self.path, to_lines(self.rows))

    def close(self) -> None:
        storage.write_bytes(self.path, to_lines(self.rows))


class TensorBoard:
    """Event files for TensorBoard, written in a folder of this process and copied to the run's at every report.

    Args:
        folder: address, local or remote.
        start: step that the run resumes at; TensorBoard hides what earlier sittings wrote beyond it.
    """

    def __init__(self, folder: str, start: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # imports take a second

        self.folder = folder
        self._draft = Path(tempfile.mkdtemp(prefix="fireedit-tensorboard-"))
        self._writer: Any = SummaryWriter(str(self._draft), purge_step=start + 1)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(row["step"]))
        self.flush()

    def picture(self, name: str, step: int, image: Image.Image) -> None:
        """Add a picture of a step."""
        self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self.flush()

    def flush(self) -> None:
        """Copy the event files to the run's folder."""
        self._writer.flush()
        for path in self._draft.iterdir():
            storage.write_bytes(storage.join(self.folder, path.name), path.read_bytes())

    def close(self) -> None:
        self._writer.close()
        self.flush()
        shutil.rmtree(self._draft, ignore_errors=True)


class RayMetrics:
    """Gauges `fireedit_train_*` on the Prometheus endpoint of this node's Ray, labeled with the run's name."""

    def __init__(self, run: str):
        self._tags, self._gauges = {"run": run}, dict[str, Any]()

    def write(self, row: Row) -> None:
        from ray.util.metrics import Gauge  # only runs on Ray have this writer

        for name, value in row.items():
            if name not in self._gauges:
                metric = "fireedit_train_" + re.sub(r"\W", "_", name, flags=re.ASCII)  # as Prometheus allows
                self._gauges[name] = Gauge(metric, "Last report of a training run.", tag_keys=("run",))
            self._gauges[name].set(value, tags=self._tags)

    def close(self) -> None:
        """Do nothing: Ray exports the gauges until the process ends."""


def write_all(writers: Iterable[Writer], row: Row) -> None:
    """Hand a report to every writer."""
    for writer in writers:
        writer.write(row)


def progress_line(row: Row, steps: int | None) -> str:
    """Format a row for a person.

    step   1200/25000  loss 0.1432 (denoise 0.13, img 0.01)  lr 9.8e-06  grad 0.71  3.2 samples/s  wait 4%  left 12m
    """
    losses = {name: value for name, value in row.items() if name not in FIGURES and "/" not in name}
    terms = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if name != "loss")
    more = f"  MFU {row['mfu']:.0%}" if "mfu" in row else ""
    more += f"  {row['peak_memory_gb']:.1f} GB" if "peak_memory_gb" in row else ""
    more += f"  left {duration(max(row['left_s'], 0.0))}" if "left_s" in row else ""
    return (
        f"step {row['step']:>6.0f}{f'/{steps}' if steps else ''}  loss {losses['loss']:.4f} ({terms})"
        f"  lr {row['lr']:.1e}"
        f"  grad {row['grad_norm']:.2f}  {row['samples_per_s']:.1f} samples/s  wait {row['data_wait_share']:.0%}{more}"
    )
