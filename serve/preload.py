"""Imports torch and the models at low priority. Modules of model deployments import this before anything else.

The imports of a starting replica take about ten seconds of a core. Where they share cores with a painter, each of its
threads waits at every layer for the one that the imports keep from running: beside six of them an edit took 20 times as
long. Linux has priorities by thread, so the imports run in a thread of their own; the replica stays at its priority.
"""

import contextlib
import importlib
import os
import sys
import threading

NICENESS = 10
"""Nice value of the importing thread above the process's own: where another program wants its core, it gets a tenth."""


def _import_models() -> None:
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
    with contextlib.suppress(ImportError):  # the importing module raises it again
        importlib.import_module("fireedit.models.pipeline")


_thread = threading.Thread(target=_import_models)
_thread.start()
_thread.join()
