"""Parts that lie saved in a folder, read back in float32."""

import contextlib
import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def saved(fresh: Module, folder: Path) -> Module:
    """The part that lies in `folder`, or the fresh one where none does."""
    if (folder / "config.json").is_file():
        return type(fresh).from_pretrained(folder).float()  # type: ignore[attr-defined]  # of diffusers, transformers
    print(f"{folder} has no weights; going on with fresh ones: pretrain that part first", file=sys.stderr)
    return fresh


def frozen(fresh: Module, folder: Path) -> Module:
    """As `saved`, never to learn."""
    return saved(fresh, folder).eval().requires_grad_(False)


def fill(part: nn.Module, folder: Path) -> None:
    """Give a part the weights of the one that lies in `folder`, of the same class and sizes.

    Raises:
        OSError: none does.
    """
    part.load_state_dict(type(part).from_pretrained(folder).float().state_dict())  # type: ignore[attr-defined]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else writes to the folder: parts run side by side, and two own halves of one file, as of `vision`."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
