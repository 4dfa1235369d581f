"""Number of workers of a run, and the resources of each."""

from dataclasses import dataclass

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from fireedit.platform.config import LogicalCPUs, LogicalGPUs


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """Workers of a run and the resources of each."""

    count: PositiveInt | tuple[PositiveInt, PositiveInt]
    """Number of workers. Two numbers are the fewest and the most: the run then goes on with those that the cluster has,
    and each step has the same samples; workers among which its passes cannot be split evenly are idle."""
    cpus: LogicalCPUs
    """Logical CPUs of each worker; Ray Data's tasks take more."""
    gpus: LogicalGPUs = 0
    """GPUs of each worker; 0 trains on CPUs."""
    max_failures: NonNegativeInt = 2
    """Restarts before the run gives up; those after a preempted node do not count."""
    resize_every_s: PositiveFloat = 60.0
    """Seconds between two looks for more workers, of a run with two counts."""

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise ValueError(f"count: found [{self.least}, {self.most}]; write the smaller number first")

    @property
    def least(self) -> int:
        return self.count if isinstance(self.count, int) else self.count[0]

    @property
    def most(self) -> int:
        return self.count if isinstance(self.count, int) else self.count[1]

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of a worker, as Ray counts them."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


def active_workers(found: int, passes: int) -> int:
    """Choose the most of `found` workers into which the passes of a step go evenly."""
    return next(count for count in range(min(found, passes), 0, -1) if passes % count == 0)
