"""Check of metrics, dashboard, alerts and logs with a real Prometheus beside the shipped service.

It starts Ray, the service and Prometheus on free ports of this machine, sends good, bad, repeated and abandoned edits,
and then asks Prometheus for every metric, every query of deploy/grafana.json and the state of every alert. At last it
kills a stage, which an alert must notice. It needs `prometheus` and `promtool` (Debian: package prometheus).
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests

from fireedit.benchmarks.serving.server import CHECKOUT, Server
from fireedit.platform.cluster import HOST, free_port, local_session
from fireedit.platform.console import say
from fireedit.platform.images import encode_png
from fireedit.serve import metrics

DEPLOY = CHECKOUT / "deploy"
PROGRAMS = ("prometheus", "promtool")
REQUEST_ID = "observe-1"
KILLED, NOTICED_BY = "UNet", "FireEditStageDown"
COMPONENTS = ("proxy", "Gateway", "Detector", "VLM", "UNet")
"""Components whose logs must name the request."""
SHORT_INTERVALS = {"RAY_metrics_report_interval_ms": "1000", "RAY_SERVE_STATUS_GAUGE_REPORT_INTERVAL_S": "1"}
"""Environment in which Ray and Serve export every second instead of every ten."""
SEEN_WITHIN_S = 30
"""Seconds until Prometheus has all metrics."""
GIVEN_UP_S = 2.0
"""Seconds after which a client gives up an edit of 1000 steps."""


@dataclass(kw_only=True)
class Report:
    """Findings; empty lists are good."""

    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Status of each answer by kind of request; an abandoned request has none."""
    missing_metrics: list[str] = field(default_factory=list)
    invalid_queries: list[str] = field(default_factory=list)
    empty_queries: list[str] = field(default_factory=list)
    """Titles of panels without data."""
    alerts: dict[str, str] = field(default_factory=dict)
    """State of each alert after the edits (inactive, pending or firing), or the error of its query."""
    kill_noticed: bool = False
    """True if an alert was pending soon after a stage was killed."""
    silent_components: list[str] = field(default_factory=list)
    """Components whose logs do not name the request."""

    edit_line: dict[str, Any] = field(default_factory=dict)
    """Line of the gateway about one edit, with its outcome and the times of its stages."""

    def passed(self) -> bool:
        """Return whether there is no fault."""
        faults = (self.missing_metrics, self.invalid_queries, self.empty_queries, self.silent_components)
        quiet = bool(self.alerts) and {*self.alerts.values()} <= {"inactive", "pending"}
        line_is_whole = self.edit_line.get("outcome") == "ok" and len(self.edit_line.get("stages", ())) == 3
        return not any(faults) and quiet and self.kill_noticed and line_is_whole


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        say(f"skipped: {' and '.join(missing)} not found; install Debian's package prometheus")
        print(json.dumps({"skipped": f"no {missing[0]}"}))
        return
    started = time.monotonic()
    out = args.out.expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    for command in (
        "check rules alerts.yaml",
        "check config --syntax-only prometheus.yml",
        "test rules alerts_test.yaml",
    ):
        subprocess.run(["promtool", *command.split()], cwd=DEPLOY, check=True, stdout=sys.stderr)
    report = observe(out)
    passed = report.passed()
    say(f"{'passed' if passed else 'FAILED'} in {time.monotonic() - started:.0f} s")
    print(json.dumps(asdict(report) | {"passed": passed, "seconds": round(time.monotonic() - started)}))
    sys.exit(not passed)


def observe(out: Path) -> Report:
    """Run the service and Prometheus, and use both."""
    report = Report()
    os.environ.update(SHORT_INTERVALS)
    with Server() as server, running_prometheus(server.ray.folder, out) as prometheus:
        say(f"the service and Prometheus run; {prometheus}, logs in {out} and {server.folder}")
        report.statuses = send_edits(server.url)
        say(f"answers: {report.statuses}")
        examine(prometheus, report)
        for process in server.titled(KILLED):
            server.kill(process)
        report.kill_noticed = is_noticed(prometheus)
        say(f"{KILLED} killed: {NOTICED_BY} {'is pending' if report.kill_noticed else 'has NOT noticed'}")
    messages = lines_of_request(server.folder / "logs" / "serve")
    report.silent_components = [component for component, lines in messages.items() if not lines]
    report.edit_line = edit_line(messages["Gateway"])
    say(f"components that do not log the request's id: {report.silent_components or 'none'}")
    say(f"the gateway's line: {report.edit_line or 'missing'}")
    return report


@contextlib.contextmanager
def running_prometheus(ray_folder: Path, out: Path) -> Iterator[str]:
    """Run Prometheus with the shipped files, adapted to this Ray and to short intervals; yield its address."""
    folder, port = out / "prometheus", free_port(9090)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DEPLOY, folder)
    config = (folder / "prometheus.yml").read_text()
    assert "/tmp/ray/" in config and "interval: 10s" in config
    config = config.replace("/tmp/ray/", f"{ray_folder}/").replace("interval: 10s", "interval: 1s")
    (folder / "prometheus.yml").write_text(config)
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={HOST}:{port}"]
    with (out / "prometheus.log").open("w") as log:
        process = subprocess.Popen(["prometheus", *options], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait()


def send_edits(endpoint: str) -> dict[str, list[int]]:
    """Send edits that succeed, repeat, fail, are given up and are refused; returns the statuses by kind."""
    pictures = [encode_png(np.full((64, 64, 3), shade, np.uint8)) for shade in (60, 180)]
    known = {"x-request-id": REQUEST_ID}
    hurried = {"x-request-timeout-seconds": "0.2"}
    statuses = {
        "edited": [_send(endpoint, pictures[0], headers=known)] + [_send(endpoint, each) for each in pictures * 2],
        "no picture": [_send(endpoint, b"no picture")],
        "too late": [_send(endpoint, pictures[0], steps=100, headers=hurried) for _ in range(2)],
    }
    with ThreadPoolExecutor() as clients:  # the gateways are busy meanwhile, and refuse what has no time to wait
        long = [clients.submit(_send, endpoint, pictures[1], steps=1000, timeout_s=GIVEN_UP_S) for _ in range(4)]
        time.sleep(GIVEN_UP_S / 2)
        statuses["hurried"] = [_send(endpoint, pictures[0], headers=hurried) for _ in range(4)]
        statuses["given up"] = [edit.result() for edit in long]
    return statuses | {"edited again": [_send(endpoint, each) for each in pictures]}


def _send(
    endpoint: str, picture: bytes, steps: int = 4, headers: Mapping[str, str] | None = None, timeout_s: float = 120
) -> int:
    """Send one edit; returns its status, or 0 when the time is over."""
    fields = {"prompt": "Remove the dog.", "seed": "1", "num_inference_steps": str(steps)}
    url, files = f"{endpoint}/v1/images/edits", {"image": picture}
    with contextlib.suppress(requests.Timeout):
        return local_session().post(url, data=fields, files=files, headers=headers, timeout=timeout_s).status_code
    return 0


def examine(prometheus: str, report: Report) -> None:
    """Ask Prometheus for metrics, queries and alerts until nothing is missing or the time is over."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    queries = {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "5m")
        for panel in panels
        for target in panel["targets"]
    }
    names = {name: name for name in (*metrics.COUNTERS, *metrics.GAUGES)}
    names |= {name: f"{name}_count" for name in metrics.HISTOGRAMS}
    while True:
        found = {name: ask(prometheus, f"ray_{sample}") for name, sample in names.items()}
        shown = {title: ask(prometheus, query) for title, query in queries.items()}
        report.missing_metrics = [name for name, series in found.items() if not series]
        report.empty_queries = [title for title, series in shown.items() if series == []]
        report.invalid_queries = [title for title, series in shown.items() if series is None]
        if not (report.missing_metrics or report.empty_queries) or time.monotonic() > deadline:
            break
        time.sleep(1)
    report.alerts = alert_states(prometheus)
    say(f"metrics: {len(names)}, missing {report.missing_metrics or 'none'}")
    say(f"queries: {len(queries)}, invalid {report.invalid_queries or 'none'}, empty {report.empty_queries or 'none'}")
    say(f"alerts: {report.alerts}")


def ask(prometheus: str, query: str) -> list[Any] | None:
    """Ask Prometheus one query; returns its series, None if it is not valid."""
    with contextlib.suppress(requests.ConnectionError):  # it is starting
        answer = local_session().get(f"{prometheus}/api/v1/query", params={"query": query}, timeout=10).json()
        return answer["data"]["result"] if answer["status"] == "success" else None
    return []


def alert_states(prometheus: str) -> dict[str, str]:
    """Ask for the state of each alert (inactive, pending, firing), or the error of its query."""
    rules = local_session().get(f"{prometheus}/api/v1/rules", timeout=10).json()["data"]["groups"][0]["rules"]
    return {rule["name"]: rule["state"] if rule["health"] == "ok" else rule["lastError"] for rule in rules}


def is_noticed(prometheus: str) -> bool:
    """Wait until the alert of a missing stage is pending."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while time.monotonic() < deadline:
        if alert_states(prometheus)[NOTICED_BY] in ("pending", "firing"):
            return True
        time.sleep(0.5)
    return False


def lines_of_request(logs: Path) -> dict[str, list[str]]:
    """Find the messages of JSON lines with the request's id, by component of Serve."""
    messages: dict[str, list[str]] = {component: [] for component in COMPONENTS}
    for path in logs.glob("*.log"):
        component = next((name for name in COMPONENTS if name in path.stem.split("_")), None)
        for line in path.read_text().splitlines() if component else ():
            with contextlib.suppress(json.JSONDecodeError):
                fields = json.loads(line)
                if component and fields.get("request_id") == REQUEST_ID:
                    messages[component].append(fields["message"])
    return messages


def edit_line(messages: Sequence[str]) -> dict[str, Any]:
    """Parse the gateway's own line of the request; empty if there is none."""
    own = [message for message in messages if message.startswith("{")]
    return json.loads(own[0]) if own else {}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CHECKOUT / "out" / "observe", help="default: out/observe")
    return parser


if __name__ == "__main__":
    main()
