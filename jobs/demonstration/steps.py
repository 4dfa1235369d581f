"""Steps of the demo: each runs a command or calls the endpoint, with its full output in a log."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
import yaml

from fireedit.jobs.evaluation.cases import Cases
from fireedit.models.model import preset
from fireedit.platform.cluster import LocalRay, local_session
from fireedit.platform.console import say, show
from fireedit.platform.images import decode, encode_png
from fireedit.platform.sheet import Panel, sheet
from fireedit.platform.train.progress import duration

CHECKOUT = Path(__file__).resolve().parents[2]
RAY_ENVIRONMENT = CHECKOUT / "serve" / "ray.env"
CORPORA = "cc12m,instructpix2pix,magicbrush,ultraedit,reasonedit,cocostuff,refcoco,grefcoco,llava_instruct"
"""Corpora in the mixtures of the nano recipes."""
FAMILIES = ("add", "remove", "replace", "recolor", "background", "style")
"""Families of edits; the first held-out scene of each is edited."""
HEALTHY_WITHIN_S = 180
LOSSES = ("img", "align", "denoise")
"""Parts of the loss that are printed."""


def prepare(corpora: Path, rows: int, log: Path) -> None:
    """Make the corpora of procedural scenes."""
    options = ["--rows", str(rows), "--out", str(corpora), "--corpora", CORPORA]
    run([sys.executable, "jobs/prepare.py", "scenes", *options], log)


def train(ray: LocalRay, stage: int, steps: int, log: Path) -> dict[str, Any]:
    """Train one stage as a submitted job; returns the summary that it ends with."""
    started = time.monotonic()
    job = ["python", "jobs/train.py", "--stage", str(stage)]
    job += [f"run=demo-stage{stage}", f"steps={steps}", f"save_every={steps}"]
    job += ["init_from=fresh"] if stage == 1 else []
    lines = run(["ray", "job", "submit", "--working-dir", ".", "--", *job], log, ray.environment, watch=_show_step)
    summary = json.loads(next(line for line in reversed(lines) if line.startswith('{"run"')))
    first, last = summary["first"], summary["last"]
    parts = ", ".join(f"{name} {first[name]:.3f} -> {last[name]:.3f}" for name in LOSSES if name in last)
    losses = f"loss {first['loss']:.2f} -> {last['loss']:.2f} ({parts})"
    say(f"stage {stage}, {steps} steps: {losses}  {duration(time.monotonic() - started)}")
    return summary


def deploy(ray: LocalRay, endpoint: str, out: Path, log: Path) -> None:
    """Deploy serve/config.yaml at this address and wait until it is healthy."""
    config = yaml.safe_load((CHECKOUT / "serve" / "config.yaml").read_text())
    config["http_options"]["port"] = int(endpoint.rpartition(":")[2])
    (out / "serve.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run(["serve", "deploy", str(out / "serve.yaml"), "--address", ray.dashboard], log, ray.environment)
    deadline = time.monotonic() + HEALTHY_WITHIN_S
    while not is_healthy(endpoint):
        if time.monotonic() > deadline:
            status = log.with_name("serve-status.log")
            run(["serve", "status", "--address", ray.dashboard], status, ray.environment)
            sys.exit(f"the service is not healthy after {HEALTHY_WITHIN_S} s; {status} has its state")
        time.sleep(1)


def is_healthy(endpoint: str) -> bool:
    """Ask the service once."""
    try:
        return local_session().get(f"{endpoint}/ready", timeout=10).status_code == 200
    except requests.RequestException:
        return False


def edit_scenes(endpoint: str, picture: Path) -> None:
    """Edit held-out scenes; save each, with the regions proposed to the VLM, beside its edited image."""
    cases = Cases(preset("nano").vae.sample_size)
    panels = []
    for case in (cases.of("unseen_seeds", family, 1)[0] for family in FAMILIES):
        fields = {"prompt": case.instruction, "seed": "0", "return_regions": "true"}
        files = {"image": encode_png(case.source)}
        response = local_session().post(f"{endpoint}/v1/images/edits", data=fields, files=files, timeout=300)
        if response.status_code != 200:
            sys.exit(f"{case.instruction}: the endpoint answered {response.status_code}: {response.text[:500]}")
        body = response.json()
        boxes = [region["box"] for region in body["regions"]]
        edited = decode(base64.b64decode(body["data"][0]["b64_json"]))
        panels += [Panel(image=case.source, title=case.instruction, boxes=boxes), Panel(image=edited)]
    sheet(panels, columns=4, height=256).save(picture)


def run(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    watch: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Run a command to its end with its output in `log`; returns the lines.

    Raises:
        SystemExit: it failed; the message names the log and quotes its end.
    """
    lines = []
    pipes: dict[str, Any] = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with log.open("w") as file, subprocess.Popen(command, cwd=CHECKOUT, env=environment, **pipes) as process:
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            lines.append(line.rstrip("\n"))
            watch(lines[-1])
    if process.returncode != 0:
        tail = "\n".join(lines[-15:])
        sys.exit(f"{' '.join(command)} failed; its output is in {log} and ends\n{tail}")
    return lines


def _show_step(line: str) -> None:
    """Show a training job's progress."""
    _, step, progress = line.partition("step  ")
    if step:
        show(f"step {progress.strip()}")
