"""All of FireEdit once, small: corpora, three training jobs on Ray, serving, and edits of pictures over HTTP.

The stages start from fresh weights and are trained for a minute or two, which shows that they learn; what is served is
the small model that ships, which was trained for longer by the same jobs.

`make demo` runs it and leaves Ray and the endpoint up to look at; `make stop` (`--stop`) ends just these.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import requests
import yaml

from fireedit.jobs.evaluation.cases import Cases
from fireedit.models.model import preset
from fireedit.platform.cluster import HOST, LocalRay, free_port
from fireedit.platform.images import decode, encode_png
from fireedit.platform.sheet import Panel, sheet
from fireedit.platform.train.progress import duration

T = TypeVar("T")
CHECKOUT = Path(__file__).resolve().parents[1]
CORPORA = "cc12m,instructpix2pix,magicbrush,ultraedit,reasonedit,cocostuff,refcoco,grefcoco,llava_instruct"
"""What the nano recipes mix."""
SHOWN = ("add", "remove", "replace", "recolor", "background", "style")
"""Families of edits: the first held-out scene of each is edited."""
HEALTHY_WITHIN_S = 180


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CHECKOUT / "out" / "demo", help="default: out/demo")
    parser.add_argument("--rows", type=int, default=600, help="scenes per corpus (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=60, help="of stages 1 and 2, a third of them in 3 (default: %(default)s)"
    )
    parser.add_argument("--stop", action="store_true", help="end what an earlier demo left running")
    asked = parser.parse_args()
    asked.out = asked.out.expanduser().resolve()
    ray = LocalRay(asked.out / "ray.json")
    was_running = ray.stop()
    if asked.stop:
        tell("the demo's Ray is stopped" if was_running else "nothing of a demo is running")
        return
    started = time.monotonic()
    if asked.out.exists() and any(asked.out.iterdir()) and not (asked.out / "home").is_dir():
        sys.exit(f"{asked.out} was not made by the demo; give --out a new folder")
    shutil.rmtree(asked.out, ignore_errors=True)
    try:
        report = demo(ray, asked.out, asked.rows, asked.steps)
    except BaseException:
        ray.keep_logs(asked.out / "logs" / "ray")
        ray.stop()
        raise
    report["seconds"] = round(time.monotonic() - started)
    tell_where(report)
    print(json.dumps(report))


def demo(ray: LocalRay, out: Path, rows: int, steps: int) -> dict[str, Any]:
    """Every step in its order; what each says in full goes to out/logs."""
    home, logs = out / "home", out / "logs"
    logs.mkdir(parents=True)
    with_told_time("Ray with its dashboard", lambda: ray.start(logs / "ray.log", {"FIREEDIT_HOME": str(home)}))
    with_told_time(f"corpora, {rows} scenes each", lambda: prepare(home / "corpora", rows, logs / "prepare.log"))
    lengths = {1: steps, 2: steps, 3: max(1, steps // 3)}  # the painter, which learns in stage 3, makes its steps long
    stages = [train(ray, stage, length, logs / f"stage{stage}.log") for stage, length in lengths.items()]
    endpoint = f"http://{HOST}:{free_port(8000)}"
    with_told_time("serving the small model that ships", lambda: deploy(ray, endpoint, out, logs / "serve.log"))
    picture = out / "before_after.png"
    with_told_time(f"{len(SHOWN)} edits over HTTP", lambda: edit_scenes(endpoint, picture))
    return {
        "picture": str(picture),
        "stages": [{name: stage[name] for name in ("run", "step", "first", "last", "weights")} for stage in stages],
        "dashboard": ray.dashboard,
        "endpoint": f"{endpoint}/v1/images/edits",
        "out": str(out),
    }


def prepare(corpora: Path, rows: int, log: Path) -> None:
    words = ["--rows", str(rows), "--out", str(corpora), "--corpora", CORPORA]
    run([sys.executable, "jobs/prepare.py", "scenes", *words], log)


def train(ray: LocalRay, stage: int, steps: int, log: Path) -> dict[str, Any]:
    """One stage as a submitted job; returns the summary that it ends with."""
    began = time.monotonic()
    job = ["python", "jobs/train.py", "--stage", str(stage)]
    job += [f"run=demo-stage{stage}", f"steps={steps}", f"save_every={steps}"]
    job += ["init_from=fresh"] if stage == 1 else []
    lines = run(["ray", "job", "submit", "--working-dir", ".", "--", *job], log, ray.environment, watch=tell_step)
    summary = json.loads(next(line for line in reversed(lines) if line.startswith('{"run"')))
    first, last = summary["first"], summary["last"]
    parts = ", ".join(
        f"{name} {first[name]:.3f} -> {last[name]:.3f}" for name in ("img", "align", "denoise") if name in last
    )
    tell(f"stage {stage}, {steps} steps: loss {first['loss']:.2f} -> {last['loss']:.2f} ({parts})", began)
    return summary


def deploy(ray: LocalRay, endpoint: str, out: Path, log: Path) -> None:
    """Deploy serve/config.yaml at this address, and wait until it is healthy."""
    config = yaml.safe_load((CHECKOUT / "serve" / "config.yaml").read_text())
    config["http_options"]["port"] = int(endpoint.rpartition(":")[2])
    (out / "serve.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run(["serve", "deploy", str(out / "serve.yaml"), "--address", ray.dashboard], log, ray.environment)
    deadline = time.monotonic() + HEALTHY_WITHIN_S
    while not is_healthy(endpoint):
        if time.monotonic() > deadline:
            status = log.with_name("serve-status.log")
            run(["serve", "status", "--address", ray.dashboard], status, ray.environment)
            sys.exit(f"the graph is not healthy after {HEALTHY_WITHIN_S} s; {status} says why")
        time.sleep(1)


def is_healthy(endpoint: str) -> bool:
    try:
        return requests.get(f"{endpoint}/health", timeout=10).status_code == 200
    except requests.RequestException:
        return False


def edit_scenes(endpoint: str, picture: Path) -> None:
    """Edit held-out scenes; save each, with the regions that were proposed to the VLM, beside what became of it."""
    cases = Cases(preset("nano").vae.sample_size)
    panels = []
    for case in (cases.of("unseen_seeds", family, 1)[0] for family in SHOWN):
        answer = edit(endpoint, encode_png(case.source), case.instruction)
        boxes = [region["box"] for region in answer["regions"]]
        edited = decode(base64.b64decode(answer["data"][0]["b64_json"]))
        panels += [Panel(image=case.source, title=case.instruction, boxes=boxes), Panel(image=edited)]
    sheet(panels, columns=4, height=256).save(picture)


def edit(endpoint: str, picture: bytes, instruction: str) -> dict[str, Any]:
    """What the endpoint answers."""
    fields = {"prompt": instruction, "seed": "0", "regions": "true"}
    response = requests.post(f"{endpoint}/v1/images/edits", data=fields, files={"image": picture}, timeout=300)
    if response.status_code != 200:
        sys.exit(f"{instruction} was answered with {response.status_code}: {response.text[:500]}")
    return response.json()


def run(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    watch: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Run a command to its end, its output to `log`; returns the lines.

    Raises:
        SystemExit: it failed; says where its output lies and how it ends.
    """
    lines = []
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            lines.append(line.rstrip("\n"))
            watch(lines[-1])
    if process.wait() != 0:
        tail = "\n".join(lines[-15:])
        sys.exit(f"{' '.join(command)} failed; its output lies in {log} and ends\n{tail}")
    return lines


def with_told_time(name: str, act: Callable[[], T]) -> T:
    began = time.monotonic()
    tell(f"{name} ...", passing=True)
    result = act()
    tell(name, began)
    return result


def tell_step(line: str) -> None:
    """Show a training job's progress as it comes."""
    _, found, progress = line.partition("step  ")
    if found:
        tell(f"step {progress.strip()}", passing=True)


def tell(line: str, began: float | None = None, passing: bool = False) -> None:
    """A line for people; a passing one is written over by the next, or not at all where nobody watches."""
    on_terminal = sys.stderr.isatty()
    if passing and not on_terminal:
        return
    time_taken = "" if began is None else f"  {duration(time.monotonic() - began)}"
    width = shutil.get_terminal_size().columns - 1
    text = f"{line}{time_taken}"
    begin, end = ("\r\x1b[K", "" if passing else "\n") if on_terminal else ("", "\n")
    print(f"{begin}{text[:width] if passing else text}", end=end, file=sys.stderr, flush=True)


def tell_where(report: Mapping[str, Any]) -> None:
    lines = {
        "picture": report["picture"],
        "dashboard": report["dashboard"],
        "endpoint": report["endpoint"],
        "trained": report["stages"][-1]["weights"],
        "all else": f"{report['out']}: home/corpora, home/runs, logs, serve.yaml",
    }
    tell("")
    for name, value in lines.items():
        tell(f"{name:10s} {value}")
    tell(f"took {duration(report['seconds'])}; Ray and the endpoint stay up until `make stop`")


if __name__ == "__main__":
    main()
