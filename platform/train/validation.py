"""Validations of a run's checkpoints: their rows in validation.jsonl, and failures, which end no training."""

from collections.abc import Callable

from fireedit.platform import storage
from fireedit.platform.console import say
from fireedit.platform.train import checkpoints
from fireedit.platform.train.progress import Row, from_lines
from fireedit.platform.train.runs import Run
from fireedit.platform.train.writers import MetricsFile

Validate = Callable[[str], Row]
"""Evaluates the checkpoint at an address; returns the figures of its step."""
PREFIX = "validation/"
"""Beginning of the names of all figures."""
FAILED = f"{PREFIX}failed"
"""Name of the figure, 1, of a validation that failed."""


def attempt(validate: Validate, run: Run, address: str) -> Row:
    """Validate a checkpoint; training goes on whatever fails in that."""
    try:
        return validate(address)
    except Exception as error:
        return record_failure(run, address, error)


def record(run: Run, row: Row) -> None:
    """Add the figures of a step to the run's file; those of later steps, of work that was lost, are dropped."""
    MetricsFile(run.validation, int(row["step"]) - 1).write(row)


def record_failure(run: Run, address: str, error: Exception) -> Row:
    """Tell a failure in a line and count it in the run's file; returns its row."""
    step, reason = checkpoints.step_of(address), str(error).partition("\n")[0]
    say(f"validation of step {step} failed, training goes on: {type(error).__name__}: {reason}")
    row = {"step": step, FAILED: 1.0}
    record(run, row)
    return row


def rows_of(run: Run) -> list[Row]:
    """Read the rows of a run's validations, in the order of their steps; none if it has none."""
    return from_lines(storage.read_bytes(run.validation)) if storage.exists(run.validation) else []
