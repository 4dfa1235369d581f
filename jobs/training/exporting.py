"""Trained weights of a run in the forms that others load: a pipeline's folder, or a PEFT adapter of its LLM."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn

from fireedit.jobs.training.recipe import FRESH, TrainRecipe
from fireedit.jobs.training.sizes import LORA_INFIX, differences, resize_lora
from fireedit.jobs.training.stage_task import trained_pipeline
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.vlm import lora_config
from fireedit.platform import config, storage
from fireedit.platform.train import checkpoints
from fireedit.platform.train.checkpoints import AVERAGES, WEIGHTS, CheckpointFiles
from fireedit.platform.train.runs import Run

LLM, PEFT_LLM, ADAPTER = "model.vlm.llm.", "base_model.model.", ".default."
"""Beginnings of the names of the LLM's weights here and in PEFT's files, which leave out the adapter's own name."""
LOCAL_KEYS = ("_name_or_path", "is_local", "local_files_only")
"""Keys of saved configs that hold paths of the machine that saved them."""


class ExportError(ValueError):
    """A run that cannot be exported as asked; the message says what to write instead."""


@dataclass(frozen=True)
class SavedRun:
    """Recipe and newest complete checkpoint of a run."""

    recipe: TrainRecipe
    checkpoint: str
    """Address."""

    @classmethod
    def find(cls, run: str, home: str) -> "SavedRun":
        """Find a run by its name in `home`, or by the address of its folder.

        Raises:
            ExportError: there is no such run, or nothing that it saved.
            RecipeError: another version of this code began it.
        """
        folder = storage.absolute(run) if "/" in run else Run(home, run).folder
        path = storage.join(folder, "recipe.yaml")
        if not storage.exists(path):
            raise ExportError(f"{path} is missing; write a run's address, or its name in {storage.join(home, 'runs')}")
        checkpoint = checkpoints.latest(folder)
        if checkpoint is None:
            raise ExportError(
                f"{folder} holds no complete checkpoint yet; write another run, or wait for its first one"
            )
        return cls(config.parse(TrainRecipe, yaml.safe_load(storage.read_bytes(path)), where=path), checkpoint)

    def kind_of(self, weights: str) -> str:
        """Choose the kind of values: of `averages`, of `last`, or, for empty text, averages where there are any.

        Raises:
            ExportError: the run keeps no averages.
        """
        if weights == "averages" and not self.recipe.ema:
            raise ExportError("--weights averages: the run keeps none (its recipe has ema 0); write --weights last")
        return AVERAGES if self.recipe.ema and weights != "last" else WEIGHTS


def load(run: SavedRun, kind: str, merge: bool, dtype: torch.dtype | None) -> FireEditPipeline:
    """Load the pipeline that a run started from with its trained weights.

    Args:
        kind: of the weights, WEIGHTS or AVERAGES.
        merge: merge the LoRA into the LLM, which then has none.
        dtype: of all weights but the detector's; None keeps trained ones in float32 and others as they are.
    """
    with CheckpointFiles.open(run.checkpoint) as files:
        pipeline = trained_pipeline(run.recipe, run.recipe.init_from, files, averaged=kind == AVERAGES)
    if merge:
        merge_lora(pipeline, run.recipe)
    if dtype is not None:
        cast(pipeline, dtype)
    return pipeline


def merge_lora(pipeline: FireEditPipeline, recipe: TrainRecipe) -> None:
    """Merge the LoRA into the LLM in float32."""
    for module in pipeline.vlm.modules():
        if isinstance(module, BaseTunerLayer):
            module.float()  # type: ignore[attr-defined]  # all of them are modules
    without = replace(recipe.model, vlm=replace(recipe.model.vlm, lora_rank=0))
    resize_lora(pipeline, without, recipe.seed)


def cast(pipeline: FireEditPipeline, dtype: torch.dtype) -> None:
    """Convert all weights but the detector's: rounding would change the ranks of its queries."""
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module) and name != "detector":
            nn.Module.to(component, dtype)  # that of diffusers warns of parts that it has none of


def save(pipeline: FireEditPipeline, folder: Path) -> None:
    """Save a pipeline without paths of this machine in its configs."""
    pipeline.save_pretrained(folder)
    for file in (*folder.glob("*/config.json"), *folder.glob("*/tokenizer_config.json"), folder / "model_index.json"):
        saved = json.loads(file.read_text())
        for key in LOCAL_KEYS:
            saved.pop(key, None)
        file.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")


def save_adapter(run: SavedRun, kind: str, dtype: torch.dtype | None, folder: Path) -> None:
    """Save the LoRA alone as PEFT does, for the LLM that the run started from.

    Raises:
        ExportError: the run trains none, or began with another one merged into an LLM that is saved nowhere.
    """
    _require_saved_llm(run.recipe)
    with CheckpointFiles.open(run.checkpoint) as files:
        shapes = {name: shape for name, shape in files.state.shapes.items() if LORA_INFIX in name}
        if not shapes:
            raise ExportError(f"--adapter: stage {run.recipe.stage} of this run trains no LoRA; leave --adapter out")
        tensors = {
            PEFT_LLM + name.removeprefix(LLM).replace(ADAPTER, "."): files.values(kind, name, 0, math.prod(shape))
            .view(shape)
            .to(dtype or torch.float32)
            for name, shape in shapes.items()
        }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    lora_config(run.recipe.model.vlm).save_pretrained(str(folder))


def _require_saved_llm(recipe: TrainRecipe) -> None:
    path = storage.join(recipe.init_from, "vlm", "config.json")
    saved = {"lora_rank": 0} if recipe.init_from == FRESH else json.loads(storage.read_bytes(path))
    changed = [key for key, *_ in differences(saved, config.to_plain(recipe.model.vlm)) if key.startswith("lora_")]
    if saved["lora_rank"] and changed:
        raise ExportError(
            f"--adapter: the run began with the LoRA of {recipe.init_from} merged into its LLM, as {changed[0]} "
            "differs; write --merge-lora in place of --adapter"
        )
