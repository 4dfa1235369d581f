"""A local Ray lets nobody in, runs the code that was uploaded and stops alone; a job that does not fit says so."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray

from fireedit.benchmarks.fake_cloud import start_on_fake_cloud
from fireedit.platform.cluster import (
    HOST,
    LocalRay,
    ResourcesError,
    local_session,
    read_variables,
    require_resources,
)

ROOT = Path(__file__).parents[2]
WHOSE_CODE = """
import os, platform, sys
sys.path.insert(0, os.getcwd())
import fireedit.platform.data.sample as sample
print("CODE", sample.__file__, getattr(sample, "MARK", None), platform.system())
"""

THREE_JOBS = """
import sys, threading
from fireedit.platform import cluster
from fireedit.platform.cluster import require_resources, start_ray
cluster.LONGEST_SILENCE_S = 1  # less than a node takes to start
start_ray()
jobs = [[{"CPU": 1, "GPU": 1}], [{"CPU": 9}], [{"CPU": 0.6}, {"CPU": 0.6}]]
threads = [threading.Thread(target=require_resources, args=(bundles, "write less", 1)) for bundles in jobs]
for thread in threads:
    thread.start()
threads[2].join()
print("the third has room", file=sys.stderr, flush=True)
"""
SAID = {
    "what is sold out": r"for 1 of 1 GPUs.*, [0-9]+ s: .* failed [0-9]+ times to launch gpu",
    "what no node has": r"of 9 CPUs, .* none of the nodes that it may add have room for this; write less, or end",
    "nodes that come": r"(of 1.2|for 0.6) CPUs( on one node)?, .*; autoscaler: .*(asked for|starting Ray on) [12] cpu",
    "nodes that came": r"the third has room",
}


def submitted(local: LocalRay, folder: Path, *arguments: str) -> str:
    """Run whose.py as a job and return the line it prints."""
    submit = ["ray", "job", "submit", *arguments]
    done = subprocess.run(submit, env=local.environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((line for line in done.stdout.splitlines() if line.startswith("CODE")), done.stdout)


def listening(local: LocalRay) -> set[str]:
    """Addresses at which the processes of this Ray listen."""
    addresses = set()
    for process in local.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = process.net_connections("tcp")
            addresses |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    return addresses


def tokenless(local: LocalRay) -> list[int]:
    """Statuses of requests without or with a wrong token that would run a command."""
    words = " ".join(" ".join(process.cmdline()) for process in local.processes())
    agents = re.findall(r"--dashboard-agent-listen-port=([0-9]+)", words)
    wrong = {"Authorization": f"Bearer {'0' * 64}"}
    return [
        local_session().post(url, json={"entrypoint": "id"}, headers=headers, timeout=10).status_code
        for url in (f"{local.dashboard}/api/jobs/", f"http://{HOST}:{agents[0]}/api/job_agent/jobs/")
        for headers in ({}, wrong)
    ]


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_runs_the_uploaded_code_past_any_proxy_and_stopping_ends_only_this_ray(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = tmp_path / "upload"
    for name in ("fireedit", "platform"):
        shutil.copytree(ROOT / name, upload / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", upload)
    with (upload / "platform" / "data" / "sample.py").open("a") as file:
        file.write("\nMARK = 'uploaded'\n")
    (upload / "whose.py").write_text(WHOSE_CODE)

    monkeypatch.chdir(ROOT)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # refuses connections: every request must go past it
    local, state = LocalRay(tmp_path / "ray.json"), tmp_path / "ray.json"
    local.start(tmp_path / "ray.log", {})
    try:
        answer = submitted(local, tmp_path, "--working-dir", str(upload), "--", "python", "whose.py")
        assert "working_dir_files" in answer and "uploaded Linux" in answer
        answer = submitted(local, tmp_path, "--", "python", str(upload / "whose.py"))
        assert answer == f"CODE {ROOT}/platform/data/sample.py None Linux", "from the folder that Ray was started in"
        assert {address.removeprefix("::ffff:") for address in listening(local)} == {HOST}
        assert set(tokenless(local)) <= {401, 403}
        assert [path.stat().st_mode & 0o777 for path in (local.token_file, local.token_file.parent)] == [0o600, 0o700]
    finally:
        folder = json.loads(state.read_text())["folder"]
        assert LocalRay(state).stop(), "another process finds it by its state file"
    alive = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in alive if folder in " ".join(line)]
    assert not local.stop()

    assert ray.get(ray.remote(num_cpus=0.1)(lambda: sys.version_info[0]).remote()) == 3, "the session's Ray still runs"


def test_the_environment_of_ray_is_read_as_a_shell_reads_it() -> None:
    file = ROOT / "serve" / "ray.env"
    read, bare = (
        subprocess.run(
            ["sh", "-c", f"set -a; {command} env"], env={}, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for command in (f". {file};", "")
    )
    assert read_variables(file) == dict(line.split("=", 1) for line in read if line not in bare)


@pytest.mark.ray
def test_a_job_larger_than_the_cluster_is_refused(ray_session: None) -> None:
    with pytest.raises(ResourcesError, match="16 CPUs and 2 GPUs, this Ray has 4 CPUs on 1 .* write fewer"):
        require_resources(2 * [{"CPU": 8, "GPU": 1}], "write fewer")
    with pytest.raises(ResourcesError, match="4.25 CPUs"):
        require_resources([{"CPU": 2}, {"CPU": 2}, {"CPU": 0.25}], "write fewer")


@pytest.mark.ray
def test_a_job_waits_for_busy_cpus_and_says_so(ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    def sleep() -> None:
        time.sleep(4)

    held = ray.remote(num_cpus=3)(sleep).remote()
    while ray.available_resources().get("CPU", 0) > 1:
        time.sleep(0.1)
    free = ray.available_resources().get("CPU", 0)  # 1, or less beside a service
    require_resources([{"CPU": 2, "GPU": 0}], "write less", patience_s=0.2)
    said = capsys.readouterr().err
    assert re.search(rf"waiting for {2 - free:g} of 2 CPUs, [0-9]+ s: this Ray has 4 CPUs on 1 node", said)
    assert f" with {free:g} CPUs free; write less, or end what holds them" in said and "autoscaler" not in said
    ray.get(held)
    require_resources(2 * [{"CPU": 2}], "write less", patience_s=30)
    assert capsys.readouterr().err == ""


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_waits_for_nodes_says_what_the_autoscaler_does(tmp_path: Path) -> None:
    local = LocalRay(tmp_path / "ray.json")
    types = {"cpu": {"CPU": 1}, "gpu": {"CPU": 1, "GPU": 1}}
    try:
        address = start_on_fake_cloud(
            local, tmp_path / "ray.log", types, 3, 60, {"PYTHONPATH": str(ROOT)}, "tests.platform.sold_out.SoldOut"
        )
        environment = local.environment | {"RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
        command, unsaid = [sys.executable, "-c", THREE_JOBS], dict(SAID)
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            threading.Timer(90, process.kill).start()
            while unsaid and (line := process.stderr.readline()):
                unsaid = {what: pattern for what, pattern in unsaid.items() if not re.search(pattern, line)}
            process.kill()  # two of its jobs wait for ever
    finally:
        local.stop()
    assert not unsaid
