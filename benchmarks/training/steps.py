"""Time of a step under Ray Train and under torchrun: the same loop, engine, batches and processes that read.

Ray's own processes (raylet, GCS, dashboard, the controller of Train and its actors) take 15 to 19 % of a core together
all the time: workers of Ray look for signals every 10 ms. Nodes with GPUs have cores to spare for them; here workers on
every core would have to share.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

from fireedit.platform.console import say
from fireedit.platform.train.progress import from_lines
from fireedit.platform.train.runs import Run

CHECKOUT = Path(__file__).resolve().parents[2]
WARM_UP = 2
"""Reports at the beginning of a run that are left out."""
RECIPE = (
    *("engine={micro_batch: 4, precision: fp32, zero_stage: 1}", "optimizer={lr: 1.0e-4}", "ema=0.99"),
    *("scenes={rows: 200, size: 64}", "workers={cpus: 0.5, max_failures: 0}", "validate_every=null"),
    *("log_every=5", "save_every=100000", "objective.denoise_weight=1", "ingest={tasks: 1, cpus_per_task: 0.25}"),
)


def seconds_per_sample(home: Path, launcher: str, workers: int, number: int, steps: int) -> list[float]:
    """Train `steps` steps of stage 2; returns the seconds per sample of each report."""
    run = Run(str(home), f"{launcher}-{workers}-{number}")
    words = ["jobs/train.py", "--stage", "2", f"home={home}", f"run={run.name}", f"steps={steps}", *RECIPE]
    words += [f"workers.count={workers}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    command = [*torchrun, *words] if launcher == "torchrun" else [sys.executable, *words]
    environment = os.environ | {"RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    rows = from_lines(Path(run.metrics).read_bytes())[WARM_UP:]
    say(f"  {run.name:14s} {statistics.median(row['samples_per_s'] for row in rows):.2f} samples/s")
    return [1 / row["samples_per_s"] for row in rows]


def ratio(home: Path, workers: int, rounds: int, steps: int) -> tuple[float, float, float]:
    """Interleave runs of both launchers; returns the ratio of their medians, and both in seconds per sample."""
    times: dict[str, list[float]] = {"ray": [], "torchrun": []}
    seconds_per_sample(home, "ray", workers, 0, 3 * 5)  # makes the corpora
    for number in range(1, rounds + 1):
        for launcher in times if number % 2 else reversed(times):
            times[launcher] += seconds_per_sample(home, launcher, workers, number, steps)
    medians = {launcher: statistics.median(values) for launcher, values in times.items()}
    return medians["ray"] / medians["torchrun"], medians["ray"], medians["torchrun"]
