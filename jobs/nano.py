"""Make the small model from nothing in so many minutes: `python jobs/nano.py --minutes M [--out DIR]`.

Text encoder, vision, LLM, painter, judge, then stages 1 to 3 through Ray Train, and a quick benchmark. Parts that do
not need one another run side by side. OUT/nano becomes a pipeline's folder with figures and sheets beside the weights;
OUT/nano.tar.* are the same in files that are easy to carry (`cat nano.tar.* | tar x`), rewritten as parts finish.
Given again, it goes on from what OUT holds. Without Ray it ends after painter and judge.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import argparse
import functools
import importlib.util
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fireedit.jobs.training.timebox import Box, Task, archive, replace_folder
from fireedit.models.model import NANO

MODEL_PARTS = ("clip", "vision", "scene_reader", "llm", "painter", "pipeline")
PARTS = ("corpora", *MODEL_PARTS, "stage1", "stage2", "stage3", "finish")
STAGES = ("corpora", "stage1", "stage2", "stage3", "finish")
ENDS = {  # shares of the box; on one GPU all is trained side by side, on two cores two parts at a time
    "cuda": {
        "corpora": 0.3,
        "clip": 0.13,
        "vision": 0.16,
        "scene_reader": 0.38,
        "llm": 0.38,
        "pipeline": 0.4,
        "stage1": 0.72,
        "painter": 0.76,
        "stage2": 0.88,
        "stage3": 0.98,
        "finish": 1.0,
    },
    "cpu": {
        "corpora": 0.52,
        "clip": 0.14,
        "vision": 0.15,
        "llm": 0.28,
        "scene_reader": 0.43,
        "pipeline": 0.45,
        "stage1": 0.68,
        "painter": 0.6,
        "stage2": 0.83,
        "stage3": 0.96,
        "finish": 1.0,
    },
}
NEEDS = {
    "painter": ("clip",),
    "llm": ("vision",),
    "pipeline": ("clip", "vision", "llm"),
    "stage1": ("pipeline", "corpora"),
    "stage2": ("stage1", "painter"),
    "stage3": ("stage2",),
    "finish": ("stage3",),
}
AFTER: dict[str, dict[str, tuple[str, ...]]] = {
    "cuda": {},
    "cpu": {"scene_reader": ("llm",), "pipeline": ("scene_reader",), "corpora": ("scene_reader",)},
}
ON_A_GPU: dict[str, tuple[str, ...]] = {
    "corpora": ("ingest.cpus_per_task=1",),
    "clip": ("batch=512", "workers=3", "optimizer.lr=1.5e-3"),
    "vision": ("batch=128", "workers=3"),
    "scene_reader": ("batch=256", "workers=3"),
    "llm": ("batch=256", "workers=4"),
    "painter": ("batch=768", "workers=9", "pool=1000000", "save_every_s=45", "optimizer.muon_lr=3.0e-3"),
    "stage": (
        "workers.count=1",
        "workers.gpus=1",
        "workers.cpus=2",
        "engine.micro_batch=128",
        "ingest.tasks=12",
        "ingest.cpus_per_task=1",
        "log_every=50",
        "save_every=500",
    ),
}
TINY = {
    "part": ("batch=4", "workers=1", "pool=64", "save_every_s=3"),
    "painter": ("held_out=1",),
    "llm": ("held_out=2",),
    "stage": ("scenes.rows=8", "engine.micro_batch=2", "steps=2", "save_every=2"),
}
OVERHEAD_S = {"cuda": 25.0, "cpu": 25.0}
"""Of a part: imports, and figures on held-out scenes."""
STAGE_OVERHEAD_S = {"cuda": 85.0, "cpu": 45.0}
"""Of a stage: Ray, its workers and what they import."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="nano.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=240.0, help="of the whole (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/nano"), help="default: %(default)s")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--parts", default=",".join(PARTS), help="only these (default: all)")
    parser.add_argument("--init-from", type=Path, help="folder of a small model that parts start from, as models/nano")
    parser.add_argument("--archive", type=Path, help="where nano.tar.* go (default: OUT)")
    parser.add_argument("--set", action="append", default=[], metavar="PART:key=value", help="for one part; repeatable")
    parser.add_argument("--tiny", action="store_true", help="hardly any data: tries the command out")
    asked = parser.parse_args(argv)
    unknown = sorted(set(asked.parts.split(",")) - set(PARTS))
    if unknown:
        parser.error(f"--parts: {unknown[0]!r}; write some of {', '.join(PARTS)}")
    print(json.dumps(run(asked)))


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Make the parts that are asked for; what each came to."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if asked.device == "auto" else asked.device
    out, home = asked.out.absolute() / "nano", asked.out.absolute() / "home"
    parts = [part for part in PARTS if part in asked.parts.split(",")]
    if importlib.util.find_spec("ray") is None and set(parts) & set(STAGES):
        _tell(
            "Ray is not installed: the stages are left out; pip install 'ray[train,data]' and run this again for them"
        )
        parts = [part for part in parts if part not in STAGES]
    for name in ("vlm_tokenizer", "tokenizer"):
        if not (out / name).is_dir():
            shutil.copytree(NANO / name, out / name)
    environment = {"FIREEDIT_HOME": str(home), "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ends = _ends(parts, ENDS[device])
    tasks = [_task(part, ends[part], device, out, home, asked) for part in parts]
    box = Box(tasks, 60 * asked.minutes, environment, asked.out.absolute() / "logs")
    _tell(f"{asked.minutes:g} minutes on {device}\n{box.plan()}")
    where = asked.archive or asked.out
    reports = box.run(lambda task, report: _tell(f"wrote {len(archive(out, where))} files of {where}/nano.tar"))
    quick, picture = _benchmarked(out, device, edits=1 if asked.tiny else 8)
    if picture is not None:
        (out / "figures").mkdir(exist_ok=True)
        picture.save(out / "figures" / "edits.png")
    archive(out, where)
    for name, report in reports.items():
        seen = report.get("samples", report.get("step"))
        _tell(f"{name:10s} {report.get('error') or report.get('stopped') or f'{seen} samples'}")
    return {"out": str(out), "minutes": round(box.now / 60, 1), "device": device, "parts": reports, "edits": quick}


def _ends(parts: Sequence[str], ends: Mapping[str, float]) -> dict[str, float]:
    """Shares of the box until which parts may take, stretched over the whole of it where some are left out."""
    last, first = max(ends[part] for part in parts), min(ends[part] for part in parts)
    begin = max((end for part, end in ends.items() if part not in parts and end < first), default=0.0)
    return {part: (ends[part] - begin) / (last - begin) for part in parts}


def _task(part: str, end: float, device: str, out: Path, home: Path, asked: argparse.Namespace) -> Task:
    before = None
    if part in ("stage1", "stage2", "stage3"):
        number = int(part[-1])
        init_from = home / "start" if number == 1 else home / "runs" / f"nano-{number - 1}" / "weights"
        command = ["jobs/train.py", "--stage", str(number), f"run=nano-{number}", f"init_from={init_from}"]
        command += ON_A_GPU["stage"] if device == "cuda" else []
        command += TINY["stage"] if asked.tiny else []
        timed, overhead_s = True, STAGE_OVERHEAD_S[device]
        copied = {1: (out, init_from), 2: (out / "unet", init_from / "unet")}  # stage 1 runs beside the painter
        before = functools.partial(replace_folder, *copied[number]) if number in copied else None
    else:
        command = ["jobs/pretrain.py", part, "--out", str(out)]
        timed = part not in ("corpora", "pipeline", "finish")
        overhead_s = OVERHEAD_S[device] if timed else 0.0
        if timed:
            command += ON_A_GPU[part] if device == "cuda" else ["workers=1"]
            command += (*TINY["part"], *TINY.get(part, ())) if asked.tiny else ()
            command += [f"init_from={asked.init_from}"] if asked.init_from else []
        elif part == "corpora":
            command += ON_A_GPU[part] if device == "cuda" else _fewer_scenes(asked.minutes)
            command += ["scenes.rows=8"] if asked.tiny else []
    command += [text.partition(":")[2] for text in asked.set if text.partition(":")[0] == part]
    return Task(
        name=part,
        end=end,
        needs=NEEDS.get(part, ()),
        after=AFTER[device].get(part, ()),
        command=tuple(command),
        timed=timed,
        overhead_s=overhead_s,
        before=before,
    )


def _fewer_scenes(minutes: float) -> list[str]:
    """For the corpora of a short box: beside the painter two cores draw some 300 scenes of each in a minute."""
    if minutes >= 240:
        return []
    rows = round(25 * minutes)
    captions = min(8 * rows, 20_000)  # one in eight has a picture
    return [f"scenes.rows={rows}", f"1:scenes.rows={captions}"]


def _benchmarked(folder: Path, device: str, edits: int) -> tuple[dict[str, float], Any]:
    """Figures of a few edits by what lies in the folder, and a sheet of them; nothing where no painter lies there."""
    if not (folder / "unet" / "config.json").is_file():
        return {}, None
    from fireedit.jobs.evaluation.run import quick

    return quick(folder, edits, device)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
