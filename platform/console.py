"""Messages to the person at the terminal."""

import sys


def say(line: str) -> None:
    """Print a line on stderr, where progress goes; stdout is for a job's one line of JSON."""
    print(line, file=sys.stderr, flush=True)
