"""Start or join a Ray: the one of this process, or a local one with a dashboard for the demo."""

import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.data
import requests

HOST = "127.0.0.1"
START_TIMEOUT_S = 90


def start_ray() -> None:
    """Join the Ray that this job was submitted to or that RAY_ADDRESS names; else start one for this process."""
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # one of our own, on this machine alone
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines of progress differ in their numbers only
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it says every line twice
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # report() waits for the controller's next look
    os.environ.setdefault("RAY_worker_niceness", "0")  # a Ray of our own would train at the lowest priority but four
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING, runtime_env={"env_vars": {"RAY_DATA_LOG_LEVEL": "WARNING"}})
    quiet_ray_data()


def quiet_ray_data() -> None:
    """No progress bars of Ray Data, nor a warning that there are none; we tell of progress ourselves."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


class LocalRayError(RuntimeError):
    """Ray did not start."""


class LocalRay:
    """`ray start --head` on free ports, in the folder of the caller; `state` remembers it from one process to the next.

    `ray stop` would end every Ray of the user. Here only those processes are ended that have this Ray's own temporary
    folder on their command line, or descend from one that has.
    """

    def __init__(self, state: Path):
        self.state = state
        self._known: dict[str, Any] = json.loads(state.read_text()) if state.is_file() else {}
        self._process: subprocess.Popen | None = None

    @property
    def dashboard(self) -> str:
        return self._known["dashboard"]

    @property
    def environment(self) -> dict[str, str]:
        """For `ray` and `serve` commands that should talk to this Ray."""
        here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": here, "RAY_AUTH_MODE": "disabled", "RAY_API_SERVER_ADDRESS": self.dashboard}

    def start(self, log: Path, environment: Mapping[str, str]) -> None:
        """Start Ray and wait until it takes jobs.

        Args:
            log: what Ray says.
            environment: what its jobs see besides this process's own.
        Raises:
            LocalRayError: it does not answer in time.
        """
        folder = tempfile.mkdtemp(prefix="fireedit-ray-")
        self._known = {"folder": folder, "dashboard": f"http://{HOST}:{free_port(8265)}"}
        self.state.parent.mkdir(parents=True, exist_ok=True)
        self.state.write_text(json.dumps(self._known))
        command = ["ray", "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={folder}"]
        command += ["--port=0", f"--dashboard-port={self.dashboard.rpartition(':')[2]}"]
        command += [f"--dashboard-agent-listen-port={free_port(9365)}"]  # where another Ray has it, no job would start
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command,
                env={**self.environment, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._takes_jobs():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise LocalRayError(f"Ray did not start; what it said lies in {log}")
            time.sleep(0.5)

    def stop(self) -> bool:
        """End this Ray with all its processes and forget its folder; False if none runs."""
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(processes, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()
        shutil.rmtree(self._known.get("folder", ""), ignore_errors=True)
        self.state.unlink(missing_ok=True)
        return bool(processes)

    def keep_logs(self, folder: Path) -> None:
        """Copy what Ray's processes have logged, before `stop` forgets it."""
        logs = Path(self._known.get("folder", "")) / "session_latest" / "logs"
        if self._known and logs.is_dir():
            shutil.copytree(logs, folder, dirs_exist_ok=True, ignore_dangling_symlinks=True)

    def _takes_jobs(self) -> bool:
        """Whether the node's agent answers, which runs the jobs; the dashboard is up some seconds before it."""
        try:
            nodes = requests.get(f"{self.dashboard}/api/v0/nodes", timeout=5).json()["data"]["result"]["result"]
            logs = requests.get(f"{self.dashboard}/api/v0/logs", params={"node_id": nodes[0]["node_id"]}, timeout=5)
            return logs.status_code == 200
        except (requests.RequestException, LookupError, TypeError):  # no answer, or one without a node in it
            return False

    def _processes(self) -> list[psutil.Process]:
        if not self._known:
            return []
        roots = [process for process in psutil.process_iter() if self._known["folder"] in " ".join(_command(process))]
        found = {process.pid: process for root in roots for process in [root, *_descendants(root)]}
        found.pop(os.getpid(), None)
        return list(found.values())


def free_port(wanted: int) -> int:
    """`wanted` if nobody listens there, else the next free port below those that Ray gives its workers."""
    for port in range(wanted, 10_000):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) != 0:
                return port
    raise LocalRayError(f"no free port from {wanted} to 9999")


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []
