"""Training loop of the pretrained parts: timed, resumable, evaluated at the end."""

import contextlib
import copy
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
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
from fireedit.platform.console import say
from fireedit.platform.train.optimizer import (
    AveragedWeights,
    OptimizerConfig,
    build_optimizers,
    named_trained,
    rate_at,
)
from fireedit.platform.train.progress import Progress, to_lines

CHECKPOINT, METRICS, SHEET = "checkpoint.pt", "metrics.jsonl", "sheet.png"
FOLDERS = {"scene_reader": "parser"}
"""Checkpoint folders of parts whose checkpoints were begun under an earlier name."""


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

    def done(self, step: int, seconds: float) -> float:
        """Share of the training in [0, 1] that is done after this many steps and seconds."""
        by_steps = step / self.steps if self.steps else 0.0
        return min(1.0, max(by_steps, seconds / 60 / self.minutes if self.minutes else 0.0))


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
class PretrainPosition:
    """Progress of a part, as its checkpoint stores it."""

    step: int = 0
    seconds: float = 0.0
    """Training time over all runs since the first step."""
    drawn: int = 0
    """Seeds used so far."""
    before_s: float = 0.0
    """Training time of the weights of `init_from`."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Logged rows."""


def pretrain(task: PretrainTask, recipe: PretrainRecipe, out: Path) -> dict[str, Any]:
    """Train a part, or resume its training, and write its averaged weights to `out`.

    On SIGTERM or Ctrl-C weights and checkpoint are saved before the process ends.

    Returns:
        its figures, training time and samples.
    """
    folder = Path(recipe.home) / "pretraining" / FOLDERS.get(task.name, task.name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CHECKPOINT
    checkpoint = torch.load(path, weights_only=True, map_location="cpu") if path.exists() else {"at": {}}
    with SamplePool(task.draw, recipe.batch, recipe.workers, recipe.pool, checkpoint["at"].get("drawn", 0)) as pool:
        trainer = Trainer(task, recipe, folder, out, checkpoint)
        trainer.run(pool)
    report = trainer.evaluate()
    storage.write_bytes(str(figures_path(out, task.name)), json.dumps(report, indent=1).encode() + b"\n")
    return report


class Trainer:
    """A part with its optimizers and averaged weights on one device.

    Args:
        checkpoint: position under `at`, and the states of an interrupted training if there was one.
    """

    def __init__(
        self, task: PretrainTask, recipe: PretrainRecipe, folder: Path, out: Path, checkpoint: Mapping[str, Any]
    ):
        self.task, self.recipe, self.folder, self.out = task, recipe, folder, out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.position = PretrainPosition(**checkpoint["at"])
        if not checkpoint["at"] and recipe.init_from is not None:
            task.load(recipe.init_from)
            figures = figures_path(recipe.init_from, task.name)
            minutes = json.loads(figures.read_text())["minutes"] if figures.is_file() else 0.0
            self.position = PretrainPosition(before_s=60 * minutes)
        self.model = task.model.to(self.device).train()
        named = list(named_trained(self.model))
        self.parameters = [parameter for _, parameter in named]
        self.optimizers = build_optimizers(named, recipe.optimizer)
        self.base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.averaged = AveragedWeights(self.parameters, recipe.average)
        self.progress = Progress(steps=recipe.steps or 0, rows=self.position.rows)
        if self.position.step:
            for name, part in self._stateful().items():
                part.load_state_dict(checkpoint[name])
            say(f"{task.name}: resumes after step {self.position.step}")
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")

    def run(self, pool: SamplePool) -> None:
        """Train to the end of the recipe."""
        recipe, before_s, began = self.recipe, self.position.seconds, time.monotonic()
        saved = began
        with _stop_signals() as signals:
            while (done := recipe.done(self.position.step, self.position.seconds)) < 1:
                grad_norm = self._next_step(pool, rate_at(done + 1e-3, recipe.optimizer))
                step, seconds = self.position.step + 1, before_s + time.monotonic() - began
                ends = recipe.done(step, seconds) >= 1
                if step % recipe.log_every == 0 or ends:
                    left_s = seconds * (1 / max(recipe.done(step, seconds), 1e-9) - 1)
                    rate = self.optimizers[0].param_groups[0]["lr"]
                    self.progress.report(step, rate, float(grad_norm), _floats, left_s=left_s)
                self.position = PretrainPosition(step, seconds, pool.drawn, self.position.before_s, self.progress.rows)
                if ends or signals or time.monotonic() - saved > recipe.save_every_s:
                    self.save()
                    saved = time.monotonic()
                if signals:
                    sys.exit(f"{self.task.name}: stopped after step {step}; the same command resumes it")

    def evaluate(self) -> dict[str, Any]:
        """Compute the figures of the averaged weights, and save a sheet of their outputs."""
        self.averaged.swap()
        model = self.model.eval()
        with torch.no_grad():
            figures = self.task.figures(model)
            preview = self.task.preview(model)
        preview.save(self.folder / SHEET)
        position = self.position
        return {
            "part": self.task.name,
            "steps": position.step,
            "minutes": round((position.before_s + position.seconds) / 60, 1),
            "samples": position.step * self.recipe.batch,
            "drawn": position.drawn,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            **figures,
        }

    def save(self) -> None:
        """Write the averaged weights to `out`, and the checkpoint and logged rows to the part's folder."""
        self.averaged.swap()
        averaged = copy.deepcopy(self.model).eval().cpu()
        self.averaged.swap()
        self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out):
            self.task.save(averaged, self.out)
        states = {name: part.state_dict() for name, part in self._stateful().items()}
        draft = self.folder / f".{CHECKPOINT}"
        torch.save(states | {"at": asdict(self.position)}, draft)
        draft.replace(self.folder / CHECKPOINT)
        (self.folder / METRICS).write_bytes(to_lines(self.progress.rows))

    def _next_step(self, pool: SamplePool, rate: float) -> Tensor:
        """Train on the next batch; `rate` is the share of the base learning rates. Returns the gradient's norm."""
        began = time.perf_counter()
        batch = pool.take(self.device)
        waited_s = time.perf_counter() - began
        torch.manual_seed(self.recipe.seed + self.position.step + 1)
        on_gpu = self.device.type == "cuda"  # bfloat16 does not pay on CPUs, some of which only emulate it
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):  # caches cast weights: once a step
            losses = self.task.losses(self.model, batch)
        losses["loss"].backward()
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        for optimizer, base_rates in zip(self.optimizers, self.base_rates, strict=True):
            for group, base_rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = base_rate * rate
            optimizer.step()
            optimizer.zero_grad()
        self.averaged.update()
        detached = {name: value.detach() for name, value in losses.items()}
        self.progress.add(detached, samples=self.recipe.batch, waited_s=waited_s)
        return grad_norm

    def _stateful(self) -> dict[str, Any]:
        """Objects whose state a checkpoint stores, by its keys."""
        optimizers = {f"optimizer{number}": optimizer for number, optimizer in enumerate(self.optimizers)}
        return {"model": self.model, "averaged": self.averaged, **optimizers}


def figures_path(folder: Path, part: str) -> Path:
    """Path of a part's figures in the folder of a small model."""
    return folder / "figures" / f"{part}.json"


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in a list instead of ending the process."""
    received = list[int]()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _floats(losses: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in losses.items()}
