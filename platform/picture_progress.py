"""Progress of a job that makes many pictures."""

import time

from fireedit.platform.console import say, show

SECONDS_PER_LINE = 10.0


class PictureProgress:
    """Line of progress: `   120/1000  12.5 pictures/s  3 failed  left 70 s`.

    Args:
        total: pictures of the job.
        made, failed: those that earlier starts made and set aside.
    """

    def __init__(self, total: int, made: int = 0, failed: int = 0):
        self.total, self.before, self.done, self.failed = total, made + failed, made + failed, failed
        self._began = self._said = time.monotonic()

    def update(self, made: int, failed: int) -> None:
        """Count all pictures so far; show the line on a terminal, elsewhere print it every SECONDS_PER_LINE."""
        self.done, self.failed = made + failed, failed
        show(self.line())
        if time.monotonic() - self._said > SECONDS_PER_LINE:
            self._said = time.monotonic()
            say(self.line())

    def close(self) -> None:
        """Print the last line."""
        say(self.line())

    def line(self) -> str:
        speed = (self.done - self.before) / max(time.monotonic() - self._began, 1e-9)
        left = f"{(self.total - self.done) / speed:.0f} s" if speed else "unknown" if self.done < self.total else "0 s"
        return f"{self.done:7d}/{self.total}  {speed:.2f} pictures/s  {self.failed} failed  left {left}"
