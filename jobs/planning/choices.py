"""Settings among which a plan chooses: level of ZeRO, micro-batch and gradient checkpointing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fireedit.jobs.planning.instances import GB, Cluster
from fireedit.jobs.planning.memory import Memory, Weights, memory_of
from fireedit.jobs.planning.step_cost import StepCost
from fireedit.jobs.training.recipe import TrainRecipe
from fireedit.platform.config import RecipeError

ZEROS, MICRO_BATCHES = (1, 2, 3), (1, 2, 4, 8, 16)
MARGIN = 0.08
"""Share of a GPU's nominal memory that a setting must leave free: the allocator cuts memory into pieces, and CUDA, NCCL
and the workspaces of cuBLAS and cuDNN take more than the nominal size leaves out."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One setting and the memory that it takes."""

    zero: int
    """Level of ZeRO; 0 where every worker holds all."""
    micro_batch: int
    accumulate: int | None
    """Micro-batches of a step; None if the step's samples cannot be split so."""
    checkpointing: bool
    memory: Memory

    def fits(self, cluster: Cluster) -> bool:
        return self.memory.total <= cluster.memory * (1 - MARGIN)

    @property
    def overrides(self) -> str:
        """Values that a recipe needs for this setting, as they are written on a command line."""
        engine = f"engine.zero_stage={self.zero} " if self.zero else ""
        batch = f"engine.micro_batch={self.micro_batch} engine.accumulate={self.accumulate}"
        return f"{engine}{batch} gradient_checkpointing={str(self.checkpointing).lower()}"


@dataclass(frozen=True)
class Choices:
    """Memory of every setting of a recipe on a cluster; a step's samples stay as many as in the recipe.

    Raises:
        RecipeError: they do not divide among the GPUs.
    """

    recipe: TrainRecipe
    cluster: Cluster
    weights: Weights
    costs: Mapping[bool, StepCost]
    """Costs of a step, by gradient checkpointing."""

    def __post_init__(self) -> None:
        samples, gpus = self.recipe.samples_per_step, self.cluster.gpus
        if samples % gpus:
            raise RecipeError(
                f"--gpus: {samples} samples a step do not divide among {gpus} GPUs; write a number that divides them, "
                "or another engine.micro_batch, engine.accumulate or workers.count"
            )

    @property
    def zero(self) -> int:
        """Level of ZeRO of the recipe; 0 where every worker holds all."""
        return self.recipe.engine.zero_stage or 0

    def of(self, zero: int, micro_batch: int, checkpointing: bool) -> Choice:
        """Compute the memory of a setting."""
        accumulate, rest = divmod(self.recipe.samples_per_step, micro_batch * self.cluster.gpus)
        cost = self.costs[checkpointing]
        return Choice(
            zero=zero,
            micro_batch=micro_batch,
            accumulate=None if rest else accumulate,
            checkpointing=checkpointing,
            memory=memory_of(self.weights, cost, self.recipe, zero, micro_batch, self.cluster.gpus),
        )

    def own(self) -> Choice:
        """Compute the recipe's own setting, its step split among the cluster's GPUs.

        Raises:
            RecipeError: its micro-batch does not divide a GPU's share of the step.
        """
        micro_batch, share = self.recipe.engine.micro_batch, self.recipe.samples_per_step // self.cluster.gpus
        choice = self.of(self.zero, micro_batch, self.recipe.gradient_checkpointing)
        if choice.accumulate is None:
            raise RecipeError(
                f"engine.micro_batch: found {micro_batch} where a GPU has {share} samples of each step; write a number "
                f"that divides {share}"
            )
        return choice

    def all(self) -> Iterator[Choice]:
        """Walk all settings; a recipe without ZeRO, as Muon needs, has those without it only."""
        for zero in ZEROS if self.zero else (0,):
            for checkpointing in (False, True):
                for micro_batch in MICRO_BATCHES:
                    yield self.of(zero, micro_batch, checkpointing)

    def recommended(self) -> Choice | None:
        """Choose the fastest setting that fits, None if none does.

        A step without recomputation has fewer FLOPs. Beyond that a lower level of ZeRO sends less and a larger
        micro-batch starts fewer kernels, which is not measured here.
        """
        fitting = [each for each in self.all() if each.accumulate and each.fits(self.cluster)]
        return min(fitting, key=lambda each: (each.checkpointing, each.zero, -each.micro_batch), default=None)

    def refusal(self, choice: Choice) -> str | None:
        """Word why a setting cannot run and what would; None if it fits."""
        if choice.fits(self.cluster):
            return None
        better, has = self.recommended(), f"{self.cluster.kind.memory_gb:g} on {self.cluster.name}"
        checkpointing = "with" if choice.checkpointing else "without"
        found = (
            f"micro-batch {choice.micro_batch} {checkpointing} gradient checkpointing takes "
            f"{choice.memory.total / GB:.0f} GB of {has}, of which {MARGIN:.0%} must stay free"
        )
        if better is None:
            return f"{found}; no setting of this recipe fits: write GPUs with more memory, or more of them under ZeRO 3"
        return f"{found}; write {better.overrides}, which takes {better.memory.total / GB:.0f} GB"
