"""Folder of the small model: components read and written by parts, assembled for stage 1, replaced after stage 3."""

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from fireedit.jobs.training import exporting
from fireedit.jobs.training.sizes import same_sizes
from fireedit.models.checkpoint_files import check_folder
from fireedit.models.model import NANO, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.platform import storage
from fireedit.platform.train import runs

PRETRAINED = dict.fromkeys(("vision", "detector", "region_encoder"), "vision") | {"vlm": "llm", "text_encoder": "clip"}
"""Components that stage 1 reads, and the part of pretrain.py that trains each."""
TOKENIZERS = ("vlm_tokenizer", "tokenizer")
PAINTER = ("unet", "vae")
"""Components that stage 1 does not read: they may still be in training when it starts."""

Module = TypeVar("Module", bound=nn.Module)


def saved(fresh: Module, folder: Path) -> Module:
    """Load the component saved in `folder`, in float32; return the fresh one if there is none."""
    return read_component(fresh, folder) if (folder / "config.json").is_file() else fresh


def frozen(fresh: Module, folder: Path) -> Module:
    """Load the component saved in `folder` in float32, in eval mode and without gradients.

    Raises:
        SystemExit: the folder has no weights.
    """
    if not (folder / "config.json").is_file() and folder.name in PRETRAINED:
        part = PRETRAINED[folder.name]
        sys.exit(
            f"{folder} is missing; run `python jobs/pretrain.py {part} --out {folder.parent}` first, or write "
            "init_from=models/nano, which is copied"
        )
    return read_component(fresh, folder).eval().requires_grad_(False)


def load_weights(component: nn.Module, folder: Path) -> None:
    """Load the weights saved in `folder` into a component of the same class and sizes.

    Raises:
        SystemExit: the folder has no weights.
    """
    component.load_state_dict(read_component(component, folder).state_dict())


def read_component(like: Module, folder: Path) -> Module:
    """Read the component saved in `folder`, of the class of `like`, in float32.

    Raises:
        SystemExit: the folder has no weights.
    """
    if not (folder / "config.json").is_file():
        sys.exit(f"{folder} is missing; write init_from=FOLDER that holds {folder.name}, such as models/nano")
    kind: Any = type(like)  # of diffusers or transformers
    component: Module = kind.from_pretrained(check_folder(folder)).float()
    return component


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes: parts train side by side, and two of them write halves of `vision`."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def copy_tokenizers(out: Path, init_from: Path | None = None) -> None:
    """Copy tokenizers to a folder that has none: those of `init_from`, or the shipped ones."""
    _copy_missing(TOKENIZERS, init_from or NANO, out)


def copy_components(out: Path, init_from: Path) -> None:
    """Copy to a folder the components that it lacks: a part trained on from `init_from` reads the others from `out`."""
    if not any((init_from / name).is_dir() for name in (*PRETRAINED, *PAINTER)):
        sys.exit(f"init_from: {init_from} has no components of a small model; write a folder like models/nano")
    _copy_missing((*TOKENIZERS, *PRETRAINED, *PAINTER), init_from, out)


def _copy_missing(names: Iterable[str], folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        for name in names:
            if (folder / name).is_dir() and not (out / name).is_dir():
                copied = shutil.copytree(folder / name, out / f"{name}.part", dirs_exist_ok=True)
                os.replace(copied, out / name)


def assemble(out: Path, seed: int = 0) -> dict[str, Any]:
    """Add fresh Q-Former, TATI and HVCA and a sampler to the components in `out`, which makes it a pipeline's folder.

    Returns:
        names of the fresh components, and the size of the folder's weights in MB.
    """
    missing = [part for name, part in PRETRAINED.items() if not (out / name / "config.json").is_file()]
    if missing:
        sys.exit(f"{out} lacks parts; run: python jobs/pretrain.py {missing[0]} --out {out}")
    pipeline = FireEditPipeline.fresh(seed, tokenizers=out)
    with locked(out):
        trained = [name for name in (*PRETRAINED, *PAINTER) if (out / name / "config.json").is_file()]
        for name in trained:
            pipeline.register_modules(**{name: type(getattr(pipeline, name)).from_pretrained(out / name)})
        fresh = [name for name, _ in pipeline.model.named_children() if name not in trained]
        return {"part": "pipeline", "weights": str(out), "fresh": fresh, "megabytes": _save(pipeline, out)}


def finish(home: str, out: Path) -> dict[str, Any]:
    """Write the weights of the last finished run of stage 3, or else of stage 2, to `out`.

    Returns:
        the run's name, and the size of the folder's weights in MB.
    """
    has_sizes = partial(same_sizes, sizes=preset("nano"))
    run = runs.latest_finished(home, 3, has_sizes) or runs.latest_finished(home, 2, has_sizes)
    if run is None:
        sys.exit(f"{home}/runs holds no finished run of nano stage 3; run: python jobs/train.py --stage 3")
    with storage.reading_folder(run.weights) as folder:
        pipeline = FireEditPipeline.from_pretrained(folder, dtype=torch.float32)
    return {"part": "finish", "weights": str(out), "run": run.name, "megabytes": _save(pipeline, out)}


def _save(pipeline: FireEditPipeline, out: Path) -> float:
    """Save in float16, with nano's sampler settings; returns the size of all weights in the folder in MB."""
    pipeline.register_to_config(settings=asdict(preset("nano").painting))
    exporting.cast(pipeline, torch.float16)
    exporting.save(pipeline, out)
    return round(sum(file.stat().st_size for file in out.rglob("*.safetensors")) / 1e6, 1)
