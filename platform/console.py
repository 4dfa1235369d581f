"""Messages to the person at the terminal."""

import shutil
import sys

CLEAR_LINE = "\r\x1b[K"


def say(line: str) -> None:
    """Print a line on stderr, where progress goes; stdout is for a job's one line of JSON."""
    print(f"{CLEAR_LINE if sys.stderr.isatty() else ''}{line}", file=sys.stderr, flush=True)


def show(line: str) -> None:
    """Show a line on a terminal until the next one replaces it; without a terminal nothing is printed."""
    if sys.stderr.isatty():
        print(f"{CLEAR_LINE}{line[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)
