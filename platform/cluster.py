"""Ray clusters: start or join one, wait for its resources, or run a local one with a dashboard for the demo."""

import contextlib
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.data
import requests
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]
from ray.util.placement_group import placement_group, remove_placement_group

from fireedit.platform.console import say

HOST = "127.0.0.1"
START_TIMEOUT_S = 90
NODE_GROUP = "ray.io/node-group"
"""Label of nodes that `ray up` or KubeRay started, which both run an autoscaler."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Variable that, at 0, makes Ray take 127.0.0.1 as its node's address, on Linux too, and open its ports there only."""
SETTLE_S = 2.0
"""Seconds in which Ray reserves what is free; only a job that has to wait longer asks for the cluster's state."""
LONGEST_SILENCE_S = 120.0
"""Seconds between lines of a job that waits for long."""


class ResourcesError(RuntimeError):
    """A job that asks for more than its Ray cluster has."""


def start_ray() -> None:
    """Join the Ray that RAY_ADDRESS names or that runs on this machine; else start one on loopback for this process."""
    if "RAY_ADDRESS" not in os.environ:
        found = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
        usual = {LOOPBACK: "0", "RAY_AUTH_MODE": "token" if found else "disabled"}
        set_ray_variables({name: os.environ.get(name, value) for name, value in usual.items()})
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines of progress differ in their numbers only
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # the dashboard lists the run
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it prints every line twice
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # report() waits for the controller's next poll
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would train at a low priority
    if not ray.is_initialized():
        try:
            ray.init(logging_level=logging.WARNING, runtime_env={"env_vars": {"RAY_DATA_LOG_LEVEL": "WARNING"}})
        except ConnectionError as error:
            error.add_note("If it asks for a token, write RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH for its file.")
            raise
    quiet_ray_data()


def set_ray_variables(variables: Mapping[str, str]) -> None:
    """Set environment variables for this process and its children, also those that Ray has read at its import."""
    os.environ.update(variables)
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(LOOPBACK, True)
    Config.initialize("")  # reads RAY_AUTH_MODE
    AuthenticationTokenLoader.instance().reset_cache()


def read_variables(path: Path) -> dict[str, str]:
    """Read a file of NAME=VALUE lines, as a shell would after `set -a`; lines that begin with # are comments."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def quiet_ray_data() -> None:
    """Turn off Ray Data's progress bars and the warning that there are none; jobs print their own progress."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def require_resources(bundles: Sequence[dict[str, float]], advice: str, patience_s: float = 10.0) -> None:
    """Wait until this process's Ray cluster has room for a job, with lines on stderr while it has not.

    Args:
        bundles: CPUs and GPUs that the job holds at the same time, each bundle on one node.
        advice: what to write so that the job takes less.
        patience_s: seconds until the first line, since an earlier job may still be ending; doubled with every line.
    Raises:
        ResourcesError: the cluster is too small for the job, even idle, and has no autoscaler.
    """
    with _without_rays_events():
        began, group = time.time(), placement_group(list(bundles))
        try:
            if group.wait(SETTLE_S):
                return
            autoscales = _require_room(bundles, advice)
            remedy = f"; {advice}, or end what holds them (`ray status` lists it)"
            while not group.wait(patience_s):
                outlook = _autoscaler_news(group.id.hex(), began, remedy) if autoscales else remedy
                say(f"{_waiting_for(bundles, time.time() - began)}{outlook}")
                patience_s = min(2 * patience_s, LONGEST_SILENCE_S)
        finally:
            remove_placement_group(group)


@contextlib.contextmanager
def _without_rays_events() -> Iterator[None]:
    """Keep Ray from printing its autoscaler's events, several times each and again every five seconds."""
    shown, ray_constants.AUTOSCALER_EVENTS = ray_constants.AUTOSCALER_EVENTS, 0
    try:
        yield
    finally:
        ray_constants.AUTOSCALER_EVENTS = shown


def _require_room(bundles: Sequence[dict[str, float]], advice: str) -> bool:
    """Raise ResourcesError if no idle cluster of this size has room for the job; return whether it can grow."""
    nodes = _alive_nodes()
    rooms = [Counter(node["Resources"]) for node in nodes]
    needed = _total(bundles)
    fits = needed <= sum(rooms, Counter()) and all(any(Counter(bundle) <= room for room in rooms) for bundle in bundles)
    autoscales = any(NODE_GROUP in node["Labels"] for node in nodes)
    if not fits and not autoscales:
        raise ResourcesError(f"the job takes {_in_words(needed)}, this Ray has {_size_in_words()}; {advice}")
    return autoscales


def _waiting_for(bundles: Sequence[dict[str, float]], seconds: float) -> str:
    """Put into words what is missing, for how long, and what there is."""
    needed, free = _total(bundles), ray.available_resources()
    missing = {name: round(needed[name] - free.get(name, 0), 4) for name in ("GPU", "CPU")}
    parts = [f"{each:g} of {needed[name]:g} {name}s" for name, each in missing.items() if each > 0]
    widest = max(bundles, key=lambda bundle: (bundle.get("GPU", 0), bundle.get("CPU", 0)))
    what = " and ".join(parts) or f"{_in_words(widest)} on one node"
    return f"waiting for {what}, {_age(seconds)}: this Ray has {_size_in_words()} with {_in_words(free)} free"


def _autoscaler_news(group: str, since: float, remedy: str) -> str:
    """Put into words what the autoscaler does about a placement group, or why it does nothing.

    Args:
        group: hex id of the placement group.
        since: Unix time from which failed launches count.
        remedy: added if no node is coming that helps.
    Source: the reply that `ray status` prints a part of (ray.autoscaler.v2.sdk.get_cluster_status).
    """
    address = ray.get_runtime_context().gcs_address
    reply = GetClusterStatusReply.FromString(GcsClient(address).get_cluster_status(timeout_s=10))
    state = reply.autoscaling_state
    asked, starting, failed = Counter[str](), Counter[str](), Counter[str]()
    for request in state.pending_instance_requests:
        asked[request.ray_node_type_name] += request.count
    for instance in state.pending_instances:
        starting[instance.ray_node_type_name] += 1
    for failure in state.failed_instance_requests:
        failed[failure.ray_node_type_name] += failure.failed_ts >= int(since)
    parts = [f"asked for {count} {kind}" for kind, count in asked.items()]
    parts += [f"starting Ray on {count} {kind}" for kind, count in starting.items()]
    parts += [
        f"failed {count} times to launch {kind}, monitor.log on the head says why" for kind, count in (+failed).items()
    ]
    hopeless = any(group in request.details for request in state.infeasible_gang_resource_requests)
    parts += ["none of the nodes that it may add have room for this"] if hopeless else []
    news = f"; autoscaler: {', '.join(parts) or 'adds no nodes'}"
    return news if (asked or starting) and not hopeless else news + remedy


def _alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _size_in_words() -> str:
    return f"{_in_words(ray.cluster_resources())} on {len(_alive_nodes())} node(s)"


def _total(bundles: Sequence[dict[str, float]]) -> Counter[str]:
    return Counter({name: round(sum(bundle.get(name, 0) for bundle in bundles), 4) for name in ("CPU", "GPU")})


def _in_words(resources: Mapping[str, float]) -> str:
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def local_session() -> requests.Session:
    """Make a session for requests to this machine, which ignores http_proxy."""
    session = requests.Session()
    session.trust_env = False
    return session


class LocalRayError(RuntimeError):
    """Ray did not start."""


class LocalRay:
    """A Ray of `ray start --head` on free ports of loopback, in the working directory of the caller.

    It asks everybody for a token, which lies beside Ray's files in a temporary folder that only the user can enter.
    `ray stop` would end every Ray of the user. `stop` ends only processes that have this Ray's own temporary folder on
    their command line, and their descendants.

    Args:
        state: file that keeps the folder and the address of a running Ray, so that another process can stop it.
    """

    def __init__(self, state: Path):
        self.state = state
        self._known: dict[str, Any] = json.loads(state.read_text()) if state.is_file() else {}
        self._process: subprocess.Popen | None = None

    @property
    def folder(self) -> Path:
        """Files of this Ray, with its logs and the list of nodes for Prometheus; Ray lets everybody write there."""
        return Path(self._known["folder"]) / "ray"

    @property
    def dashboard(self) -> str:
        return self._known["dashboard"]

    @property
    def token_file(self) -> Path:
        """File of the token that dashboard and jobs ask for."""
        return self.folder.with_name("auth_token")

    @property
    def environment(self) -> dict[str, str]:
        """Environment for `ray` and `serve` commands that talk to this Ray, without a proxy in between."""
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        direct = ",".join(filter(None, [os.environ.get("no_proxy"), os.environ.get("NO_PROXY"), HOST, "localhost"]))
        exempt = {"no_proxy": direct, "NO_PROXY": direct}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        return inherited | exempt | token | {"PATH": path, LOOPBACK: "0", "RAY_API_SERVER_ADDRESS": self.dashboard}

    def start(self, log: Path, environment: Mapping[str, str], options: Sequence[str] = ()) -> None:
        """Start Ray and wait until it takes jobs.

        Args:
            log: file for Ray's output.
            environment: variables that its jobs see besides those of this process.
            options: further options of `ray start`; of two of one name the last counts.
        Raises:
            LocalRayError: Ray does not answer in time.
        """
        folder = tempfile.mkdtemp(prefix="fireedit-ray-")
        self._known = {"folder": folder, "dashboard": f"http://{HOST}:{free_port(8265)}"}
        self.state.parent.mkdir(parents=True, exist_ok=True)
        self.state.write_text(json.dumps(self._known))
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(secrets.token_hex(32))
        command = ["ray", "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={self.folder}"]
        command += ["--port=0", f"--dashboard-port={self.dashboard.rpartition(':')[2]}"]
        command += [f"--dashboard-agent-listen-port={free_port(9365)}"]  # taken by another Ray, no job would start
        command += options
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
                raise LocalRayError(f"Ray did not start; its output is in {log}")
            time.sleep(0.5)

    def stop(self) -> bool:
        """End this Ray with all its processes and remove its folder; False if none runs."""
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(processes, timeout=3)[1]:  # some of Ray's wait for each other
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()
        shutil.rmtree(self._known.get("folder", ""), ignore_errors=True)
        self.state.unlink(missing_ok=True)
        return bool(processes)

    def processes(self) -> set[psutil.Process]:
        """Find the processes of this Ray: those with its folder on their command line, and their descendants."""
        processes = set[psutil.Process]()
        for process in psutil.process_iter(["cmdline"]) if self._known else ():
            if self._known["folder"] in " ".join(process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    processes |= {process, *process.children(recursive=True)}
        return processes - {psutil.Process()}

    def keep_logs(self, folder: Path) -> None:
        """Copy the logs of Ray's processes, before `stop` removes them."""
        if self._known and (logs := self.folder / "session_latest" / "logs").is_dir():
            shutil.copytree(logs, folder, dirs_exist_ok=True, ignore_dangling_symlinks=True)

    def _takes_jobs(self) -> bool:
        """Ask for the node's agent, which runs the jobs; the dashboard is up some seconds before it."""
        session, api = local_session(), f"{self.dashboard}/api/v0"
        session.headers["Authorization"] = f"Bearer {self.token_file.read_text()}"
        try:
            nodes = session.get(f"{api}/nodes", timeout=5).json()["data"]["result"]["result"]
            return session.get(f"{api}/logs", params={"node_id": nodes[0]["node_id"]}, timeout=5).status_code == 200
        except (requests.RequestException, LookupError, TypeError):  # no answer, or one without a node in it
            return False


def free_port(wanted: int) -> int:
    """Find a port from `wanted` on that nothing listens on, below those that Ray gives its workers."""
    for port in range(wanted, 10_000):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) != 0:
                return port
    raise LocalRayError(f"no free port from {wanted} to 9999")
