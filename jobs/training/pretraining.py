"""Training loop of the pretrained parts: timed, resumable, evaluated at the end."""

import copy
import json
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fireedit.jobs.training.nano_folder import locked
from fireedit.jobs.training.pool import SamplePool
from fireedit.platform import storage
from fireedit.platform.config import Decay, Seed
from fireedit.platform.train import checkpoints
from fireedit.platform.train.engine import Engine, EngineConfig, build_engine
from fireedit.platform.train.loop import DivergedError, Loop, LoopConfig
from fireedit.platform.train.optimizer import OptimizerConfig
from fireedit.platform.train.progress import Progress, Row
from fireedit.platform.train.session import local_session, process_group
from fireedit.platform.train.writers import ConsoleLine, MetricsFile, Writer

METRICS, SHEET = "metrics.jsonl", "sheet.png"


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """Training settings of one part; training ends at `steps` or at `minutes`, whichever comes first."""

    steps: PositiveInt | None = None
    minutes: PositiveFloat | None = None
    """Training time over all runs since fresh weights or `init_from`; warm-up and cooldown follow the clock."""
    batch: PositiveInt
    """Samples a step."""
    optimizer: OptimizerConfig
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    average: Decay = 0.999
    """Decay of the moving average of the weights, which is evaluated and saved."""
    workers: NonNegativeInt = 1
    """Processes that draw samples; 0 draws them between the steps."""
    pool: PositiveInt = 100_000
    """Samples kept in memory and repeated where drawing is slower than training."""
    seed: Seed = 0
    init_from: Path | None = None
    """Folder of a small model, such as models/nano, whose weights training starts from; None: fresh ones."""
    home: str = field(default_factory=storage.home)
    log_every: PositiveInt = 100
    save_every_s: PositiveFloat = 180.0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("neither steps nor minutes say when training ends; write minutes=20, for example")

    def engine(self, gpu: bool) -> EngineConfig:
        """Choose the engine; bfloat16 does not pay on CPUs, some of which only emulate it."""
        return EngineConfig(
            micro_batch=self.batch, precision="bf16" if gpu else "fp32", zero_stage=None, clip=self.clip
        )

    @property
    def loop(self) -> LoopConfig:
        """Length of the training and its intervals."""
        return LoopConfig(
            steps=self.steps, minutes=self.minutes, log_every=self.log_every, save_every_s=self.save_every_s
        )


class PretrainTask(Protocol):
    """Module, data, loss and metrics of one pretrained part; methods take a module of the class of `model`."""

    name: str
    """Name of its folder below `home` and of its file of figures."""

    @property
    def model(self) -> nn.Module:
        """The trained module; parameters that need no gradient stay frozen."""

    def draw(self, seed: int) -> Mapping[str, Tensor]:
        """Draw the sample of a seed of the training world: tensors of the same shapes for every seed."""

    def losses(self, model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss to minimize, under `loss`, and terms to log; the batch is on the model's device."""

    def figures(self, model: Any) -> dict[str, float]:
        """Evaluate on held-out scenes."""

    def preview(self, model: Any) -> Image.Image:
        """Draw a sheet of outputs on held-out scenes."""

    def load(self, folder: Path) -> None:
        """Load into `model` the weights that `save` wrote."""

    def save(self, model: Any, folder: Path) -> None:
        """Write the weights as the pipeline loads them; `model` is a copy that may be changed."""


@dataclass(frozen=True)
class DrawnBatch:
    """Batch of a part, by name, on the device already."""

    tensors: Mapping[str, Tensor]

    def to(self, device: torch.device) -> "DrawnBatch":
        return DrawnBatch({name: values.to(device) for name, values in self.tensors.items()})


@dataclass(frozen=True)
class PartLosses:
    """Loss of a part, and terms to log."""

    total: Tensor
    terms: Mapping[str, Tensor]

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and detached values, the total first."""
        yield "loss", self.total.detach()
        yield from ((name, value.detach()) for name, value in self.terms.items() if name != "loss")


class PartTask:
    """A part as a task of the training loop.

    Args:
        before_s: training time of the weights that the part began with.
        out: folder of the small model that takes the averaged weights.
    """

    def __init__(self, part: PretrainTask, recipe: PretrainRecipe, pool: SamplePool, out: Path, before_s: float):
        self.part, self.recipe, self.pool, self.out, self.before_s = part, recipe, pool, out, before_s
        self.passes = 0

    def batches(self, position: Mapping[str, Any]) -> Generator[DrawnBatch]:
        self.passes = position.get("step", 0)
        while True:
            yield DrawnBatch(self.pool.take(self.device))

    @property
    def device(self) -> torch.device:
        return next(self.part.model.parameters()).device

    def losses(self, engine: Engine, batch: DrawnBatch) -> PartLosses:
        self.passes += 1
        torch.manual_seed(self.recipe.seed + self.passes)
        with engine.autocast():
            losses = self.part.losses(self.part.model, batch.tensors)
        return PartLosses(losses["loss"], losses)

    def record(self, step: int, batch: DrawnBatch, losses: PartLosses) -> int:
        return self.recipe.batch

    def figures(self, total: Callable[[Tensor], Tensor]) -> Row:
        return {}

    def position(self, step: int) -> dict[str, Any]:
        begun = begun_with(self.recipe)
        return {"step": step, "drawn": self.pool.drawn, "before_s": self.before_s, "begun_with": begun}

    def saving(self, step: int, engine: Engine) -> None:
        """Write the averaged weights to `out`."""
        assert engine.averages is not None
        with engine.averages.applied():
            averaged = copy.deepcopy(self.part.model).eval().cpu()
        self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out):
            self.part.save(averaged, self.out)


def pretrain(part: PretrainTask, recipe: PretrainRecipe, out: Path) -> dict[str, Any]:
    """Train a part, or resume its training, and write its averaged weights to `out`.

    Returns:
        its figures, training time and samples.
    Raises:
        SystemExit: SIGTERM or Ctrl-C came, and weights and checkpoint are saved; training diverged; or it began with
            other settings.
    """
    folder = folder_of(part.name, recipe)
    position = resumed_position(part.name, recipe)
    before_s = position["before_s"] if position else _begin(part, recipe)
    gpu = torch.cuda.is_available()
    # The pool forks its processes before CUDA starts.
    with (
        SamplePool(part.draw, recipe.batch, recipe.workers, recipe.pool, position.get("drawn", 0)) as pool,
        process_group(gpu),
        local_session(folder, 1, storage.join(folder, "stop")) as session,
    ):
        task = PartTask(part, recipe, pool, out, before_s)
        engine = build_engine(part.model.train(), recipe.engine(gpu), recipe.optimizer, ema=recipe.average)

        def writers(start: int) -> list[Writer]:
            return [ConsoleLine(recipe.steps), MetricsFile(storage.join(folder, METRICS), start)]

        loop = Loop(task, engine, session, recipe.loop, writers, Progress(), storage.join(folder, "traces"))
        try:
            ended = loop.train()
        except DivergedError as error:
            sys.exit(f"{part.name}: {error}: the same command with these resumes it")
        if ended.stopped:
            sys.exit(f"{part.name}: stopped after step {ended.step}; the same command resumes it")
        report = _evaluate(task, engine, ended.step, loop.clock.elapsed_s)
    storage.write_bytes(str(figures_path(out, part.name)), json.dumps(report, indent=1).encode() + b"\n")
    return report


def folder_of(part: str, recipe: PretrainRecipe) -> str:
    """Address of the folder of a part's training."""
    return storage.join(recipe.home, "pretraining", part)


def begun_with(recipe: PretrainRecipe) -> dict[str, Any]:
    """List the settings that a training keeps, as JSON holds them: the folder of its first weights, and its seed."""
    start = None if recipe.init_from is None else str(recipe.init_from.resolve())
    return {"init_from": start, "seed": recipe.seed}


def resumed_position(part: str, recipe: PretrainRecipe) -> dict[str, Any]:
    """Read the position of a part's newest checkpoint; {} if its training has not begun.

    Raises:
        SystemExit: it began with other settings than the recipe's.
    """
    folder = folder_of(part, recipe)
    address = checkpoints.latest(folder)
    position: dict[str, Any] = checkpoints.read_state(address).position["task"] if address else {}
    before, now = position.get("begun_with", {}), begun_with(recipe)
    for key, value in before.items():
        if key in now and value != now[key]:
            same = f"{key}={value}" if value is not None else f"no {key}"
            sys.exit(
                f"{part}: its training in {folder} began with {key} {value}, not {now[key]}; write {same} to resume "
                "it, or another home=FOLDER or delete that folder to begin anew"
            )
    return position


def _begin(part: PretrainTask, recipe: PretrainRecipe) -> float:
    """Load the weights of `init_from`, if the recipe has it; returns the seconds that they were trained."""
    if recipe.init_from is None:
        return 0.0
    part.load(recipe.init_from)
    figures = figures_path(recipe.init_from, part.name)
    return 60 * json.loads(figures.read_text())["minutes"] if figures.is_file() else 0.0


def _evaluate(task: PartTask, engine: Engine, step: int, elapsed_s: float) -> dict[str, Any]:
    """Compute the figures of the averaged weights, and save a sheet of their outputs."""
    part, recipe = task.part, task.recipe
    assert engine.averages is not None
    with engine.averages.applied(), torch.no_grad():
        model = part.model.eval()
        figures = part.figures(model)
        part.preview(model).save(Path(folder_of(part.name, recipe), SHEET))
    return {
        "part": part.name,
        "steps": step,
        "minutes": round((task.before_s + elapsed_s) / 60, 1),
        "samples": step * recipe.batch,
        "drawn": task.pool.drawn,
        "device": torch.cuda.get_device_name() if engine.device.type == "cuda" else "cpu",
        **figures,
    }


def figures_path(folder: Path, part: str) -> Path:
    """Path of a part's figures in the folder of a small model."""
    return folder / "figures" / f"{part}.json"
