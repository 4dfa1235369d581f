"""Schedule of the small model: parts and stages as tasks of a time box, on one GPU or on two CPU cores."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fireedit.jobs.training.timebox import TimedTask, replace_folder

Overrides = tuple[str, ...]
"""Settings as `key=value`."""


@dataclass(frozen=True, kw_only=True)
class PlannedPart:
    """Schedule and settings of one part."""

    cuda: float
    """Share of the box in [0, 1] at which it should be done on a GPU."""
    cpu: float
    """The same on two CPU cores."""
    needs: tuple[str, ...] = ()
    """Parts that must succeed first."""
    after_on_cpu: tuple[str, ...] = ()
    """Parts that must end first on two CPU cores; a GPU's machine trains all that can be trained side by side."""
    on_gpu: Overrides = ()
    tiny: Overrides = ()
    """Settings of a trial run."""


_TINY = ("batch=4", "workers=1", "pool=64", "save_every_s=3")
_TINY_STAGE = ("scenes.rows=8", "engine.micro_batch=2", "steps=2", "save_every=2", "validate_every=null")
_STAGE_ON_GPU = (
    "workers.count=1",
    "workers.gpus=1",
    "workers.cpus=2",
    "engine.micro_batch=128",
    "ingest.tasks=12",
    "ingest.cpus_per_task=1",
    "log_every=50",
    "save_every=500",
)
PARTS = {
    "corpora": PlannedPart(
        cuda=0.3, cpu=0.52, after_on_cpu=("scene_reader",), on_gpu=("ingest.cpus_per_task=1",), tiny=("scenes.rows=8",)
    ),
    "clip": PlannedPart(
        cuda=0.13, cpu=0.14, on_gpu=("batch=512", "workers=3", "optimizer.lr=1.5e-3"), tiny=(*_TINY, "held_out=16")
    ),
    "vision": PlannedPart(cuda=0.16, cpu=0.15, on_gpu=("batch=128", "workers=3"), tiny=(*_TINY, "held_out=16")),
    "scene_reader": PlannedPart(
        cuda=0.38,
        cpu=0.43,
        after_on_cpu=("llm",),
        on_gpu=("batch=256", "workers=3"),
        tiny=(*_TINY, "held_out=4", "judged=1"),
    ),
    "llm": PlannedPart(
        cuda=0.38, cpu=0.28, needs=("vision",), on_gpu=("batch=256", "workers=4"), tiny=(*_TINY, "held_out=2")
    ),
    "painter": PlannedPart(
        cuda=0.76,
        cpu=0.6,
        needs=("clip",),
        on_gpu=("batch=768", "workers=9", "pool=1000000", "save_every_s=45", "optimizer.muon_lr=3.0e-3"),
        tiny=(*_TINY, "held_out=1"),
    ),
    "pipeline": PlannedPart(cuda=0.4, cpu=0.45, needs=("clip", "vision", "llm"), after_on_cpu=("scene_reader",)),
    "stage1": PlannedPart(cuda=0.72, cpu=0.68, needs=("pipeline", "corpora"), on_gpu=_STAGE_ON_GPU, tiny=_TINY_STAGE),
    "stage2": PlannedPart(cuda=0.88, cpu=0.83, needs=("stage1", "painter"), on_gpu=_STAGE_ON_GPU, tiny=_TINY_STAGE),
    "stage3": PlannedPart(cuda=0.98, cpu=0.96, needs=("stage2",), on_gpu=_STAGE_ON_GPU, tiny=_TINY_STAGE),
    "finish": PlannedPart(cuda=1.0, cpu=1.0, needs=("stage3",)),
}
ON_RAY = ("corpora", "stage1", "stage2", "stage3", "finish")
"""Parts that need Ray."""
UNTIMED = ("corpora", "pipeline", "finish")
"""Parts that take no `minutes=`."""
OVERHEAD_S = 25.0
"""Imports of a pretrained part, and its figures on held-out scenes."""
STAGE_OVERHEAD_S = {"cuda": 85.0, "cpu": 45.0}
"""Start of Ray and of a stage's workers, by device."""
ALL_SCENES_MINUTES = 240
"""Length of a box on CPUs from which on the corpora have all the scenes of their recipes."""


@dataclass(frozen=True, kw_only=True)
class NanoPlan:
    """Settings of one run of nano.py."""

    out: Path
    """Folder of the small model; runs and corpora are in `home` beside it."""
    device: str
    """cuda or cpu."""
    minutes: float = 240.0
    init_from: Path | None = None
    """Folder of a small model that pretrained parts start from."""
    overrides: Sequence[str] = ()
    """Settings of single parts, as PART:key=value."""
    tiny: bool = False

    @property
    def home(self) -> Path:
        """Folder of runs and corpora."""
        return self.out.parent / "home"

    def tasks(self, parts: Sequence[str]) -> list[TimedTask]:
        """Schedule the parts; they fill the box also where others are left out."""
        ends = stretched({part: getattr(planned, self.device) for part, planned in PARTS.items()}, parts)
        return [self.task(part, ends[part]) for part in parts]

    def task(self, part: str, end: float) -> TimedTask:
        """Build the task of a part that should be done at a share `end` of the box."""
        planned, stage = PARTS[part], int(part[-1]) if part.startswith("stage") else 0
        start = self.home / "runs" / f"nano-{stage - 1}" / "weights" if stage > 1 else self.home / "start"
        command: Overrides = ("jobs/pretrain.py", part, "--out", str(self.out))
        before: Callable[[], None] | None = None
        if stage:
            command = ("jobs/train.py", "--stage", str(stage), f"run=nano-{stage}", f"init_from={start}")
        if stage == 1:  # it trains while the painter does, whose UNet stage 2 starts from
            before = functools.partial(replace_folder, self.out, start)
        elif stage == 2:
            before = functools.partial(replace_folder, self.out / "unet", start / "unet")
        settings = [*self._machine_overrides(part), *(planned.tiny if self.tiny else ())]
        settings += [text.removeprefix(f"{part}:") for text in self.overrides if text.startswith(f"{part}:")]
        return TimedTask(
            name=part,
            end=end,
            needs=planned.needs,
            after=planned.after_on_cpu if self.device == "cpu" else (),
            command=(*command, *settings),
            overhead_s=None if part in UNTIMED else STAGE_OVERHEAD_S[self.device] if stage else OVERHEAD_S,
            before=before,
        )

    def _machine_overrides(self, part: str) -> Overrides:
        pretrained = not part.startswith("stage") and part not in UNTIMED
        init_from = (f"init_from={self.init_from}",) if pretrained and self.init_from else ()
        if self.device == "cuda":
            return (*PARTS[part].on_gpu, *init_from)
        if part == "corpora" and self.minutes < ALL_SCENES_MINUTES:
            rows = round(25 * self.minutes)  # beside the painter two cores draw some 300 scenes of each in a minute
            captions = min(8 * rows, 20_000)  # one in eight has an image
            return f"scenes.rows={rows}", f"1:scenes.rows={captions}"
        return ("workers=1", *init_from) if pretrained else ()


def stretched(ends: Mapping[str, float], parts: Sequence[str]) -> dict[str, float]:
    """Stretch the ends of some parts, shares of the box, over the whole of it."""
    last, first = max(ends[part] for part in parts), min(ends[part] for part in parts)
    begin = max((end for part, end in ends.items() if part not in parts and end < first), default=0.0)
    return {part: (ends[part] - begin) / (last - begin) for part in parts}
