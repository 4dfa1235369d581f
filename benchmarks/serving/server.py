"""Shipped service on a Ray of its own: started, changed, killed in parts, and measured from outside."""

import asyncio
import contextlib
import logging
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import psutil
import ray
import requests
import yaml
from ray import serve

from fireedit.benchmarks.measuring import memory_mb
from fireedit.benchmarks.serving.edits import Threads
from fireedit.platform import config
from fireedit.platform.cluster import (
    HOST,
    LocalRay,
    free_port,
    local_session,
    read_variables,
    set_ray_variables,
)
from fireedit.serve.graph import GraphRecipe

CHECKOUT = Path(__file__).resolve().parents[2]
SERVE = CHECKOUT / "serve"
APPLICATION = "fireedit"
READY_WITHIN_S = 240
STATE = "ray.json"
"""File from which LocalRay knows the Ray that runs."""
STAGES = ("Detector", "VLM", "UNet")
TITLES = {name: f"ray::ServeReplica:{APPLICATION}:{name}" for name in (*STAGES, "Gateway")} | {
    "proxy": "ray::ProxyActor"
}
"""Beginning of a process's title, by what it runs."""
CONTROLLER = "ray::ServeController"


@dataclass(frozen=True)
class Load:
    """Counters of all UNet replicas together."""

    running: int
    waiting: int
    steps: int
    """Denoising steps run so far."""


class Server:
    """Service of serve/config.yaml on free ports; use it as a context.

    Args:
        changes: keys of the application's args that differ from the shipped file, nested.
        folder: place of its logs; a new one by default.
    """

    def __init__(self, changes: Mapping[str, Any] | None = None, folder: Path | None = None):
        self.folder = folder or Path(tempfile.mkdtemp(prefix="fireedit-bench-"))
        self.ray = LocalRay(self.folder / STATE)
        self.port = free_port(8100)
        self.changes: Mapping[str, Any] = changes or {}
        self.replicas: int | None = None
        """Number of replicas of every stage, as Serve's own key of the config file; None leaves it to `changes`."""

    def __enter__(self) -> Self:
        environment = {"PYTHONPATH": str(CHECKOUT), "RAY_SERVE_LOG_TO_STDERR": "0", **read_variables(SERVE / "ray.env")}
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that Ray ends with this process
        self.ray.start(self.folder / "ray.log", environment)
        try:
            self.deploy(self.changes)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()
        self.ray.keep_logs(self.folder / "logs")
        self.ray.stop()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def recipe(self) -> GraphRecipe:
        """Recipe as it is deployed."""
        return config.parse(GraphRecipe, self._settings()["applications"][0]["args"], where="args")

    @property
    def threads(self) -> Threads:
        """Threads of torch in the replicas."""
        recipe = self.recipe
        return Threads(recipe.detector.threads, recipe.vlm.threads, recipe.unet.threads)

    def deploy(self, changes: Mapping[str, Any], wait: bool = True) -> None:
        """Deploy the shipped file with these changes, and wait until everything is ready."""
        self.changes = changes
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(self._settings(), sort_keys=False))
        command = ["serve", "deploy", str(path), "--address", self.ray.dashboard]
        environment = self.ray.environment | {"PYTHONPATH": str(CHECKOUT)}
        subprocess.run(command, env=environment, cwd=self.folder, check=True, capture_output=True, text=True)
        if wait:
            _wait_for(self.is_ready, f"the service; its logs are in {self.folder}")

    def _settings(self) -> dict[str, Any]:
        settings = yaml.safe_load((SERVE / "config.yaml").read_text())
        settings["http_options"]["port"] = self.port
        application = settings["applications"][0]
        application["args"] = _merged(application["args"], self.changes)
        if self.replicas is not None:
            bounds = {"min_replicas": self.replicas, "max_replicas": self.replicas}
            application["deployments"] = [{"name": name, "autoscaling_config": bounds} for name in STAGES]
        return settings

    def is_ready(self) -> bool:
        """Ask the service once."""
        try:
            return local_session().get(f"{self.url}/ready", timeout=10).status_code == 200
        except requests.RequestException:
            return False

    def processes(self) -> set[psutil.Process]:
        """List every process of this Ray, its daemons included."""
        return self.ray.processes()

    def service_processes(self) -> list[psutil.Process]:
        """List the proxies, the controller and the replicas."""
        return [process for kind in TITLES for process in self.titled(kind)]

    def titled(self, kind: str) -> list[psutil.Process]:
        """List the processes that run a kind of TITLES."""
        found = []
        for process in self.raylet.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith(TITLES[kind]):
                    found.append(process)
        return found

    @cached_property
    def raylet(self) -> psutil.Process:
        """Parent of all workers."""
        return next(process for process in self.processes() if process.name() == "raylet")

    def kill(self, process: psutil.Process) -> None:
        """End a process at once, as a lack of memory would."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)

    def connect(self) -> None:
        """Join the cluster as a driver, which `load` and `running` need, until the end: Serve cannot join twice."""
        if ray.is_initialized():
            return
        set_ray_variables({key: value for key, value in self.ray.environment.items() if key.startswith("RAY_")})
        ray.init(self._gcs_address(), namespace="serve", log_to_driver=False, logging_level=logging.ERROR)

    async def load(self) -> Load:
        """Ask every UNet replica for its counters; needs a driver."""
        handle = serve.get_deployment_handle("UNet", APPLICATION)
        loads = await asyncio.to_thread(lambda: handle.broadcast("load").results(timeout_s=10))
        return Load(**{name: sum(getattr(each, name) for each in loads) for name in Load.__dataclass_fields__})

    def running(self) -> dict[str, int]:
        """Count the running replicas of every deployment, as the controller knows them; needs a driver."""
        deployments = serve.status().applications[APPLICATION].deployments
        return {name: _counts(status).get("RUNNING", 0) for name, status in deployments.items()}

    def is_settled(self) -> bool:
        """Return whether no rollout is under way; needs a driver."""
        application = serve.status().applications[APPLICATION]
        states = [_counts(status) for status in application.deployments.values()]
        return application.status == "RUNNING" and all(set(counts) == {"RUNNING"} for counts in states)

    def _gcs_address(self) -> str:
        found = re.search(r"--gcs-address=([^ ]+)", " ".join(self.raylet.cmdline()))
        assert found, self.raylet.cmdline()
        return found[1]


class PeakMemory:
    """Readings of memory while a block runs: the highest, above the first."""

    def __init__(self, server: Server):
        self.server, self.idle_mb, self.highest_mb = server, 0.0, 0.0

    async def __aenter__(self) -> Self:
        self.idle_mb = self.highest_mb = memory_mb(self.server.processes())
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    @property
    def growth_mb(self) -> float:
        return self.highest_mb - self.idle_mb

    async def _watch(self) -> None:
        processes = self.server.processes()
        while True:
            self.highest_mb = max(self.highest_mb, await asyncio.to_thread(memory_mb, processes))
            await asyncio.sleep(0.05)


def _counts(status: Any) -> dict[str, int]:
    """Count the replicas of a deployment by state, states of none left out."""
    return {str(state): count for state, count in status.replica_states.items() if count}


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for key, value in changes.items():
        merged[key] = _merged(merged.get(key, {}), value) if isinstance(value, Mapping) else value
    return merged


def _wait_for(holds: Any, subject: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {READY_WITHIN_S} s for {subject}")
        time.sleep(0.5)
