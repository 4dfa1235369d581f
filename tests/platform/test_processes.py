"""Functions in processes of their own, and their memory."""

import os
import sys

import numpy as np
import pytest

from fireedit.platform.processes import in_new_process, peak_bytes


def test_a_function_runs_in_a_process_of_its_own() -> None:
    assert in_new_process(os.getpid) != os.getpid() and in_new_process(max, 1, 3) == 3
    with pytest.raises(ZeroDivisionError):
        in_new_process(divmod, 1, 0)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_a_new_process_does_not_begin_at_the_peak_of_this_one() -> None:
    held = np.ones(2**26)
    assert peak_bytes() > held.nbytes
    assert 2**20 < in_new_process(peak_bytes) < held.nbytes
    assert peak_bytes(os.getpid()) == pytest.approx(peak_bytes(), rel=0.1)


def test_macos_knows_this_processs_peak_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_bytes() > 0
    with pytest.raises(NotImplementedError, match="found process 1; macOS tells this process's peak alone"):
        peak_bytes(1)
