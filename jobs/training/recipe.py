"""Recipe of one run of one stage: its fields, the command line that reads it, and the checks before Ray starts."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import yaml
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from fireedit.jobs.training.sizes import ModelSizes
from fireedit.models.detectors.proposals import DetectorError
from fireedit.models.model import FireEdit
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.speed import Compiled
from fireedit.models.stages import STAGES, DropoutConfig, Idea, ObjectiveConfig, StagedFireEdit
from fireedit.platform import config, storage
from fireedit.platform.config import Decay, LogicalCPUs, LogicalGPUs, RecipeError, Seed
from fireedit.platform.data.catalog import CORPORA
from fireedit.platform.data.ingest import IngestConfig
from fireedit.platform.data.mixture import check_weights
from fireedit.platform.data.shards import INDEX
from fireedit.platform.scenes.world import ScenesConfig
from fireedit.platform.train.engine import EngineConfig, check_engine
from fireedit.platform.train.loop import LoopConfig
from fireedit.platform.train.optimizer import OptimizerConfig, build_optimizers, named_trained
from fireedit.platform.train.workers import WorkersConfig

CONFIGS = Path(__file__).parent / "configs"
FRESH, AUTO = "fresh", "auto"


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Held-out samples that a run is validated on, and the task that does it beside training."""

    rows: PositiveInt = 8
    """Samples of each corpus."""
    pictures: NonNegativeInt = 6
    """Edits on a sheet, in turn from each corpus; 0 draws no sheets."""
    sampler_steps: PositiveInt | None = None
    """Denoising steps of these; None takes those of the weights' own settings."""
    cpus: LogicalCPUs = 0.5
    """Logical CPUs of the task on Ray; without Ray the first worker validates while the others wait."""
    gpus: LogicalGPUs = 0
    """GPUs of the task, besides those of the workers; 0 validates on CPUs."""

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of the task, as Ray counts them."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Every setting that one run of one stage depends on."""

    model: ModelSizes
    """Sizes of a preset, `nano` or `paper`, with changes: `{preset: nano, vlm: {lora_rank: 16}}`."""
    stage: PositiveInt
    """Key of STAGES, which `--stage` chooses."""
    steps: PositiveInt | None = None
    """Optimizer steps after which the run ends."""
    minutes: PositiveFloat | None = None
    """Minutes of training, over all sittings, after which the run ends; with `steps` too, whichever comes first.
    To save an interrupted run as it is, resume it with fewer minutes than it has had."""
    optimizer: OptimizerConfig
    engine: EngineConfig
    workers: WorkersConfig
    mixture: Mapping[str, float]
    """Corpus to share; shares need not sum to 1."""
    ingest: IngestConfig = field(default_factory=IngestConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    scenes: ScenesConfig | None = None
    """Procedural scenes to write and convert where a corpus has no shards; None requires published corpora."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    ema: Decay = 0.0
    """Decay of the running average of the weights, which is saved in their place; 0 saves the last weights."""
    without: tuple[Idea, ...] = ()
    """Ideas of the paper that an ablation leaves out; the pipeline is saved without their parts."""
    compile: tuple[Compiled, ...] = ()
    """Parts that torch compiles, in minutes at its first step: `[unet]`."""
    gradient_checkpointing: bool = False
    """Trade a second forward pass of LLM and UNet for their activations' memory."""
    init_from: str = AUTO
    """Weights to start from: a pipeline folder, `fresh`, or `auto`: the last finished run of the stage before."""
    home: str = field(default_factory=storage.home)
    """Folder or s3:// address of corpora, shards and runs."""
    run: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$")] = ""
    """Name of the run; empty makes one from recipe and time. The name of an unfinished run resumes it."""
    seed: Seed = 0
    log_every: PositiveInt = 10
    """Steps between reports."""
    save_every: PositiveInt = 500
    """Steps between checkpoints."""
    keep_checkpoints: PositiveInt = 2
    validate_every: PositiveInt | None = None
    """Steps between validations, from step 0 on, and one at the end; None validates nothing."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    profile: NonNegativeInt = 0
    """Steps that torch's profiler records on the first worker."""

    @property
    def name(self) -> str:
        """Name of the preset and the stage."""
        return f"{self.model.preset}-stage{self.stage}"

    @property
    def passes(self) -> int:
        """Forward passes of an optimizer step on all workers together, with the most workers that the run may have."""
        return self.engine.accumulate * self.workers.most

    @property
    def samples_per_step(self) -> int:
        """Samples of an optimizer step on all workers together."""
        return self.engine.micro_batch * self.passes

    @property
    def loop(self) -> LoopConfig:
        """Length of the run and its intervals."""
        return LoopConfig(
            steps=self.steps,
            minutes=self.minutes,
            log_every=self.log_every,
            save_every=self.save_every,
            validate_every=self.validate_every,
            profile=self.profile,
        )

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Resources that the run holds on Ray: its workers, a decoding task for each at least, and a validation."""
        training = self.workers.least * [self.workers.bundle, {"CPU": self.ingest.cpus_per_task}]
        return training + ([self.validation.bundle] if self.validate_every else [])

    def staged(self, editor: FireEdit | FireEditPipeline) -> StagedFireEdit:
        """Build the module that the stage trains out of an editor's parts, less those that an ablation leaves out."""
        stage = STAGES[self.stage].without(self.without)
        model = FireEdit(**{name: getattr(editor, name) for name in stage.parts})
        if self.gradient_checkpointing:
            model.vlm.llm.activation_checkpointing_enable({"use_reentrant": False})
            if model.unet is not None:
                model.unet.enable_gradient_checkpointing()
        return StagedFireEdit(model, stage, self.model.schedule, self.dropout, self.objective)


def read_recipe(argv: Sequence[str]) -> TrainRecipe:
    """Read the recipe of a command line; exits with a sentence and code 2 if it is wrong."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    try:
        name = _recipe_name(args.config, args.stage)
        recipe = config.load(TrainRecipe, name, [*args.overrides, f"stage={args.stage}"], CONFIGS)
        recipe = replace(recipe, home=storage.absolute(recipe.home))
        check(recipe, name)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    return recipe


def _recipe_name(config_name: str, stage: int) -> str:
    """Complete a preset's name to that of its recipe of a stage; a path stays as it is.

    Raises:
        RecipeError: there is no such preset or file, or the file is of another stage.
    """
    is_path = config_name.endswith((".yaml", ".yml"))
    path = Path(config_name) if is_path else CONFIGS / f"{config_name}-stage{stage}.yaml"
    if not path.is_file():
        presets = sorted(file.stem.removesuffix(f"-stage{stage}") for file in CONFIGS.glob(f"*-stage{stage}.yaml"))
        raise RecipeError(
            f"--config {config_name}: no such recipe of stage {stage}; write "
            f"{', '.join([*presets, 'or the path of a .yaml file'])}"
        )
    found = _stage_in(path) if is_path else None
    if found not in (None, stage):
        raise RecipeError(f"--config {config_name}: a recipe of stage {found}, not {stage}; write --stage {found}")
    return config_name if is_path else path.stem


def _stage_in(path: Path) -> int | None:
    """Read the stage of a recipe off its file's name or off the file, as that of a run has it; None if neither says."""
    if named := re.search(r"-stage(\d+)$", path.stem):
        return int(named[1])
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):  # which reading the recipe explains
        return None
    stage: int | None = values.get("stage") if isinstance(values, dict) else None
    return stage


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of jobs/train.py's command line."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train one stage.")
    parser.add_argument("--stage", type=int, choices=sorted(STAGES), required=True)
    parser.add_argument("--config", default="nano", help="nano, paper, paper-771k, or a recipe's path (default: nano)")
    parser.add_argument("--local", action="store_true", help="without Ray: in this process, or in those of torchrun")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as steps=50 model.vlm.lora_rank=16")
    return parser


def check(recipe: TrainRecipe, name: str) -> None:
    """Raise ValueError where values, each in its range, do not go together or name nothing."""
    if recipe.steps is None and recipe.minutes is None:
        raise RecipeError(f"{name}: found no end of the run; write steps=N, minutes=M, or both")
    check_weights(recipe.mixture)
    for corpus in recipe.mixture:
        if corpus not in CORPORA and not storage.exists(storage.join(recipe.home, "shards", corpus, INDEX)):
            hint = config.nearest(corpus, list(CORPORA))
            raise RecipeError(f"{name}: mixture: no corpus or folder of shards is called {corpus!r}; {hint}")
    check_engine(recipe.engine, recipe.optimizer)
    try:
        with torch.device("meta"):  # no memory for the weights
            model = FireEdit.from_config(recipe.model)
    except DetectorError as error:
        raise RecipeError(f"{name}: model.detector: {error}") from error
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RecipeError(f"{name}: model: no model has these sizes: {error}") from error
    build_optimizers(named_trained(recipe.staged(model)), recipe.optimizer)
