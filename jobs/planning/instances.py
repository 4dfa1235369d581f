"""GPUs that a run can rent, their prices, and `--gpus 16xa100-80g`, which chooses them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from fireedit.platform import config
from fireedit.platform.config import RecipeError

FILE = Path(__file__).parent / "prices.yaml"
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class GpuInstance:
    """Instance of one kind of GPU."""

    instance: str
    count: PositiveInt
    """GPUs of an instance."""
    memory_gb: PositiveFloat
    """Nominal memory of one GPU, 1e9 bytes."""
    peak_tflops: PositiveFloat
    """Dense bfloat16 of one GPU."""
    cpus: PositiveInt
    on_demand: NonNegativeFloat
    """Dollars an hour of the instance."""
    spot: NonNegativeFloat | None
    """Dollars an hour where it may be taken away; None: no price is listed."""


@dataclass(frozen=True, kw_only=True)
class CpuInstance:
    """Instance that decodes pictures for the GPUs."""

    instance: str
    cpus: PositiveInt
    on_demand: NonNegativeFloat
    spot: NonNegativeFloat | None


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Contents of prices.yaml."""

    gpus: Mapping[str, GpuInstance]
    cpu: CpuInstance
    storage_gb_month: NonNegativeFloat
    rows: Mapping[str, PositiveFloat]
    """Published rows of each corpus."""


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind."""

    gpus: int
    name: str
    """Key of the prices, such as `a100-80g`."""
    kind: GpuInstance

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.kind.count)

    @property
    def hardware(self) -> str:
        """Description of the instances."""
        return f"{self.nodes} {self.kind.instance}"

    @property
    def memory(self) -> float:
        """Bytes of one GPU."""
        return self.kind.memory_gb * GB

    @property
    def peak_flops(self) -> float:
        """FLOPs a second of all GPUs."""
        return self.gpus * self.kind.peak_tflops * 1e12


def load_prices() -> Prices:
    """Load the prices that ship with the code."""
    return config.load(Prices, str(FILE))


def parse_cluster(text: str, prices: Prices) -> Cluster:
    """Parse `16xa100-80g`.

    Raises:
        RecipeError: it is written otherwise, or names no GPU of the prices.
    """
    match = re.fullmatch(r"(\d+)x(.+)", text)
    if match is None or int(match[1]) == 0:
        raise RecipeError(f"--gpus: found {text!r}; write how many and which, such as 16xa100-80g")
    if match[2] not in prices.gpus:
        raise RecipeError(f"--gpus: no price of {match[2]!r}; {config.nearest(match[2], list(prices.gpus))}")
    return Cluster(int(match[1]), match[2], prices.gpus[match[2]])
