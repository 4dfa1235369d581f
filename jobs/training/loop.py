"""One loop for all that is made before the three stages: timed, resumable, and with figures at the end."""

import contextlib
import copy
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fireedit.jobs.training.pool import FreshPool
from fireedit.jobs.training.saved import alone
from fireedit.platform import storage
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.train.optimizer import (
    AveragedWeights,
    OptimizerConfig,
    build_optimizers,
    named_trained,
    rate_at,
)
from fireedit.platform.train.progress import Progress, to_lines

CHECKPOINT, METRICS, SHEET = "checkpoint.pt", "metrics.jsonl", "sheet.png"
MOST_STEPS = 10**9
FOLDERS = {"scene_reader": "parser"}
"""Checkpoint folders of parts whose checkpoints were begun under an earlier name."""


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """How one part is trained; it ends at `steps` or at `minutes`, whichever comes first."""

    steps: PositiveInt | None = None
    minutes: PositiveFloat | None = None
    """Of training, in all sittings since fresh weights or `init_from`; warm-up and cooldown follow the clock."""
    batch: PositiveInt
    """Samples a step."""
    optimizer: OptimizerConfig
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    average: NonNegativeFloat = 0.999
    """Decay of the moving average of the weights, which is what is judged and saved."""
    workers: NonNegativeInt = 1
    """Processes that draw scenes; 0 draws them between the steps."""
    pool: PositiveInt = 100_000
    """Drawn samples that are kept in memory to be seen again where drawing is slower than training."""
    seed: int = 0
    init_from: Path | None = None
    """Folder of a small model whose weights of this part it starts from, such as models/nano; None: fresh ones."""
    home: str = field(default_factory=storage.home)
    log_every: PositiveInt = 100
    save_every_s: PositiveFloat = 180.0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("neither steps nor minutes say when training ends; write minutes=20, for example")

    def done(self, step: int, seconds: float) -> float:
        """The share of the training in [0, 1] that lies behind after so many steps and seconds."""
        by_steps = step / self.steps if self.steps else 0.0
        return min(1.0, max(by_steps, seconds / 60 / self.minutes if self.minutes else 0.0))


class Part(Protocol):
    """Something that is pretrained: its module, its data, its loss and its figures."""

    name: str

    @property
    def model(self) -> nn.Module:
        """What learns; its parameters that need no gradient stay as they are."""

    def draw(self, renderer: Renderer, seed: int) -> Mapping[str, Tensor]:
        """The sample of a seed of the training world: tensors of the same shapes for every seed."""

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a step lowers, under `loss`, and what else to log; the batch lies on the model's device."""

    def figures(self, model: nn.Module) -> dict[str, float]:
        """How good it is, on scenes that training never draws."""

    def look(self, model: nn.Module) -> Image.Image | None:
        """A picture of what it does on some of them."""

    def load(self, folder: Path) -> None:
        """Give `model` the weights that `save` wrote."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write its weights as the pipeline loads them; `model` is a copy that may be changed."""


@dataclass(frozen=True)
class Position:
    """How far a part has come."""

    step: int = 0
    seconds: float = 0.0
    """Of training, in all sittings since its first step."""
    drawn: int = 0
    """Seeds that are used up."""
    before_s: float = 0.0
    """Seconds that the weights of `init_from` had been trained."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """What was reported."""


def pretrain(part: Part, recipe: PretrainRecipe, out: Path) -> dict[str, Any]:
    """Train a part, or go on where that was broken off, and write its averaged weights to `out`.

    Told to end (SIGTERM, Ctrl-C), it saves both weights and checkpoint first.

    Returns:
        its figures, and what it took.
    """
    folder = Path(recipe.home) / "pretraining" / FOLDERS.get(part.name, part.name)
    folder.mkdir(parents=True, exist_ok=True)
    at = _position(folder / CHECKPOINT)
    with FreshPool(part.draw, recipe.batch, recipe.workers, recipe.pool, at.drawn) as pool:
        trainer = Trainer(part, recipe, folder, out, at)
        at = trainer.run(pool)
    report = trainer.judged()
    figures_path(out, part.name).parent.mkdir(exist_ok=True, parents=True)
    figures_path(out, part.name).write_text(json.dumps(report, indent=1) + "\n")
    return report


class Trainer:
    """A part with its optimizers and averaged weights on one device."""

    def __init__(self, part: Part, recipe: PretrainRecipe, folder: Path, out: Path, at: Position):
        self.part, self.recipe, self.folder, self.out, self.at = part, recipe, folder, out, at
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.seconds_before = at.seconds
        if not (folder / CHECKPOINT).exists() and recipe.init_from is not None:
            part.load(recipe.init_from)
            self.at = Position(before_s=60 * _minutes(recipe.init_from, part.name))
        self.model = part.model.to(self.device).train()
        named = list(named_trained(self.model))
        self.parameters = [parameter for _, parameter in named]
        self.optimizers = build_optimizers(named, recipe.optimizer)
        self.highest = [[group["lr"] for group in one.param_groups] for one in self.optimizers]
        self.averaged = AveragedWeights(self.parameters, recipe.average)
        self.progress = Progress(steps=recipe.steps or 0)
        if at.step:
            self._resume()
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")

    def run(self, pool: FreshPool) -> Position:
        """Train to the end of the recipe."""
        recipe, began, saved = self.recipe, time.monotonic(), time.monotonic()
        with _told_to_stop() as told:
            while (done := recipe.done(self.at.step, self.at.seconds)) < 1:
                waiting = time.perf_counter()
                batch = pool.take(self.device)
                waited_s, step = time.perf_counter() - waiting, self.at.step + 1
                torch.manual_seed(recipe.seed + step)
                losses, grad_norm = self._step(batch, rate_at(done + 1e-3, recipe.optimizer))
                self.progress.add(losses, samples=recipe.batch, waited_s=waited_s)
                seconds = self.seconds_before + time.monotonic() - began
                ends = recipe.done(step, seconds) >= 1
                if step % recipe.log_every == 0 or ends:
                    left_s = seconds * (1 / max(recipe.done(step, seconds), 1e-9) - 1)
                    rate = self.optimizers[0].param_groups[0]["lr"]
                    self.progress.report(step, rate, float(grad_norm), _floats, left_s=left_s)
                self.at = Position(step, seconds, pool.drawn, self.at.before_s, self.progress.rows)
                if ends or told or time.monotonic() - saved > recipe.save_every_s:
                    self.save()
                    saved = time.monotonic()
                if told:
                    sys.exit(f"{self.part.name}: stopped after step {step}; the same command goes on")
        return self.at

    def judged(self) -> dict[str, Any]:
        """What the averaged weights are worth, and a sheet of what they do."""
        self.averaged.swap()
        model = self.model.eval()
        with torch.no_grad():
            figures = self.part.figures(model)
            picture = self.part.look(model)
        if picture is not None:
            picture.save(self.folder / SHEET)
        at, device = self.at, torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        took = {"minutes": round((at.before_s + at.seconds) / 60, 1), "samples": at.step * self.recipe.batch}
        return {"part": self.part.name, "steps": at.step, **took, "drawn": at.drawn, "device": device, **figures}

    def save(self) -> None:
        """Write the averaged weights to `out`, and all that is needed to go on."""
        self.averaged.swap()
        averaged = copy.deepcopy(self.model).eval().cpu()
        self.averaged.swap()
        self.out.mkdir(parents=True, exist_ok=True)
        with alone(self.out):
            self.part.save(averaged, self.out)
        states: dict[str, Any] = {"model": self.model, "averaged": self.averaged}
        states |= {f"optimizer{number}": one for number, one in enumerate(self.optimizers)}
        saved = {name: state.state_dict() for name, state in states.items()} | {"at": asdict(self.at)}
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as draft:
            torch.save(saved, draft)
        os.replace(draft.name, self.folder / CHECKPOINT)
        (self.folder / METRICS).write_bytes(to_lines(self.progress.rows))

    def _step(self, batch: dict[str, Tensor], rate: float) -> tuple[dict[str, Tensor], Tensor]:
        """One step at a share `rate` of the highest learning rates."""
        with autocast(self.device):  # a step's own: it remembers the weights it has rounded
            losses = self.part.losses(self.model, batch)
        losses["loss"].backward()
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        for optimizer, highest in zip(self.optimizers, self.highest, strict=True):
            for group, lr in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = lr * rate
            optimizer.step()
            optimizer.zero_grad()
        self.averaged.update()
        return {name: value.detach() for name, value in losses.items()}, grad_norm

    def _resume(self) -> None:
        saved = torch.load(self.folder / CHECKPOINT, weights_only=True, map_location=self.device)
        self.model.load_state_dict(saved["model"])
        self.averaged.load_state_dict(saved["averaged"])
        for number, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict(saved[f"optimizer{number}"])
        self.progress.rows = list(self.at.rows)
        print(f"{self.part.name}: goes on after step {self.at.step}", file=sys.stderr, flush=True)


def figures_path(folder: Path, part: str) -> Path:
    """Where the figures of a part lie in the folder of a small model."""
    return folder / "figures" / f"{part}.json"


def autocast(device: torch.device) -> torch.autocast:
    """To bfloat16 on a GPU; on CPUs it does not pay at nano's widths, and some only emulate it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _position(path: Path) -> Position:
    if not path.exists():
        return Position()
    return Position(**torch.load(path, weights_only=True, map_location="cpu")["at"])


def _minutes(folder: Path, part: str) -> float:
    """How long a part that lies in a folder was trained; 0 where that is not told."""
    path = figures_path(folder, part)
    return float(json.loads(path.read_text())["minutes"]) if path.is_file() else 0.0


@contextlib.contextmanager
def _told_to_stop() -> Iterator[list[int]]:
    """A list that is empty until the process is told to end."""
    told: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: told.append(got)) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _floats(losses: Mapping[str, Any]) -> dict[str, float]:
    """Read off the device at once: one by one, each would wait for it."""
    names: Sequence[str] = list(losses)
    return dict(zip(names, torch.stack([losses[name].float() for name in names]).tolist(), strict=True))
