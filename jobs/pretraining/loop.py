"""One loop for all that is made before the three stages: resumable, and with figures at the end."""

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fireedit.platform import storage
from fireedit.platform.train.optimizer import OptimizerConfig, build_optimizer, learning_rate_over
from fireedit.platform.train.progress import Progress, to_lines

CHECKPOINT, METRICS, SHEET = "checkpoint.pt", "metrics.jsonl", "sheet.png"


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """How one part is trained."""

    steps: PositiveInt
    batch: PositiveInt
    """Samples a step."""
    optimizer: OptimizerConfig
    grad_clip: PositiveFloat = 1.0
    workers: NonNegativeInt = 1
    """Processes that draw scenes; 0 draws them between the steps."""
    seed: int = 0
    init_from: Path | None = None
    """Folder of a small model whose weights of this part it starts from, such as models/nano; None: fresh ones."""
    home: str = field(default_factory=storage.home)
    log_every: PositiveInt = 100
    save_every_s: PositiveFloat = 180.0


class Part(Protocol):
    """Something that is pretrained: its module, its data, its loss and its figures."""

    name: str

    @property
    def model(self) -> nn.Module:
        """What learns; its parameters that need no gradient stay as they are."""

    def batches(self, first: int, last: int) -> Iterable[Any]:
        """The batches of steps `first` + 1, ..., `last`: always the same ones."""

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """What a step lowers, under `loss`, and what else to log."""

    def figures(self, model: nn.Module) -> dict[str, float]:
        """How good it is, on scenes that training never draws."""

    def look(self, model: nn.Module) -> Image.Image | None:
        """A picture of what it does on some of them."""

    def load(self, folder: Path) -> None:
        """Give `model` the weights that `save` wrote."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write its weights as the pipeline loads them."""


def pretrain(part: Part, recipe: PretrainRecipe, out: Path) -> dict[str, Any]:
    """Train a part, or go on where that was broken off, and write it to `out`.

    Returns:
        its figures, and what it took.
    """
    folder = Path(recipe.home) / "pretraining" / part.name
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = part.model.to(device)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    optimizer = build_optimizer(named, recipe.optimizer)
    highest = [group["lr"] for group in optimizer.param_groups]
    rate = learning_rate_over(recipe.steps, recipe.optimizer)
    progress, at = Progress(steps=recipe.steps), _Position()
    states = {"model": model, "optimizer": optimizer}
    if (folder / CHECKPOINT).exists():
        at = _resume(folder / CHECKPOINT, states)
        progress.rows = list(at.rows)
        print(f"{part.name}: goes on after step {at.step} of {recipe.steps}", file=sys.stderr, flush=True)
    elif recipe.init_from is not None:
        part.load(recipe.init_from)
        at = _Position(seconds=60 * _minutes(recipe.init_from, part.name))

    began, spent_s, saved = time.monotonic(), at.seconds, time.monotonic()
    model.train()
    with _told_to_stop() as told:
        waiting = time.perf_counter()
        for step, batch in enumerate(part.batches(at.step, recipe.steps), start=at.step + 1):
            batch = _to(batch, device)
            waited_s = time.perf_counter() - waiting
            torch.manual_seed(recipe.seed + step)
            with autocast(device):  # a step's own: it remembers the weights it has rounded
                losses = part.losses(model, batch)
            losses["loss"].backward()
            grad_norm = nn.utils.clip_grad_norm_([parameter for _, parameter in named], recipe.grad_clip)
            for group, lr in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = lr * rate(step - 1)
            optimizer.step()
            optimizer.zero_grad()
            detached = {name: value.detach() for name, value in losses.items()}
            progress.add(detached, samples=recipe.batch, waited_s=waited_s)
            if step % recipe.log_every == 0 or step == recipe.steps:
                progress.report(step, optimizer.param_groups[0]["lr"], float(grad_norm), _floats)
            at = _Position(step, spent_s + time.monotonic() - began, progress.rows)
            if time.monotonic() - saved > recipe.save_every_s or step == recipe.steps or told:
                _save(folder / CHECKPOINT, states, at)
                (folder / METRICS).write_bytes(to_lines(progress.rows))
                saved = time.monotonic()
            if told:
                sys.exit(f"{part.name}: stopped after step {step}; the same command goes on")
            waiting = time.perf_counter()

    trained = model.eval()
    with torch.no_grad():
        figures = part.figures(trained)
        picture = part.look(trained)
    part.save(trained, out)
    if picture is not None:
        picture.save(folder / SHEET)
    report = {"part": part.name, "steps": at.step, "minutes": round(at.seconds / 60, 1), **figures}
    figures_path(out, part.name).parent.mkdir(exist_ok=True)
    figures_path(out, part.name).write_text(json.dumps(report, indent=1))
    return report


def figures_path(folder: Path, part: str) -> Path:
    """Where the figures of a part lie in the folder of a small model."""
    return folder / "figures" / f"{part}.json"


def autocast(device: torch.device) -> torch.autocast:
    """To bfloat16, except on a processor that only emulates it, which is up to 60 times slower there."""
    known = torch.cpu.get_capabilities()
    multiplies = device.type != "cpu" or any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies)


@dataclass(frozen=True)
class _Position:
    """How far a part has come."""

    step: int = 0
    seconds: float = 0.0
    """Of training, in all sittings, those of `init_from` included."""
    rows: list[dict[str, float]] = field(default_factory=list)


def _minutes(folder: Path, part: str) -> float:
    """How long a part that lies in a folder was trained; 0 where that is not told."""
    path = figures_path(folder, part)
    return float(json.loads(path.read_text())["minutes"]) if path.is_file() else 0.0


def _save(path: Path, states: Mapping[str, Any], at: _Position) -> None:
    """Whole or not at all."""
    saved = {name: state.state_dict() for name, state in states.items()} | {"at": asdict(at)}
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as draft:
        torch.save(saved, draft)
    os.replace(draft.name, path)


def _resume(path: Path, states: Mapping[str, Any]) -> _Position:
    saved = torch.load(path, weights_only=True)
    for name, state in states.items():
        state.load_state_dict(saved[name])
    return _Position(**saved["at"])


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


def _to(batch: Any, device: torch.device) -> Any:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _floats(losses: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in losses.items()}
