"""Weights that a run starts from, each in the precision that training needs it in."""

import diffusers
import torch
import transformers

from fireedit.jobs.training.recipe import FRESH, TrainRecipe
from fireedit.jobs.training.sizes import apply_settings, renew_hvca, replace_detector, resize_lora
from fireedit.models.layers.component import AS_SAVED, DTYPES
from fireedit.models.model import FireEdit
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.stages import PARTS_OF, STAGES, Stage
from fireedit.platform import storage


def load_pipeline(recipe: TrainRecipe, init_from: str, device: torch.device | str = "cpu") -> FireEditPipeline:
    """Load the pipeline to train, without the parts that an ablation leaves out.

    The stage's parts are on `device`: what it trains in float32, what it does not in the engine's precision, and the
    detector in float32. Other parts stay on the CPU as they are saved. On a CPU weights that are saved in the precision
    they need are mapped from the node's one copy of the files, which all its workers share.

    Args:
        init_from: pipeline folder, or FRESH.
    Raises:
        ValueError: the saved pipeline lacks a part that the stage runs; HVCA may be lacking, and then begins.
        DetectorError: the published detector that the recipe names cannot be loaded.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    frozen = DTYPES[recipe.engine.precision]
    if init_from == FRESH:
        pipeline = FireEditPipeline.fresh(recipe.seed, recipe.model, dtype=frozen)
    else:
        with storage.reading_folder(init_from) as folder:
            pipeline = FireEditPipeline.from_pretrained(folder, dtype=AS_SAVED)
    pipeline.register_modules(**dict.fromkeys(part for idea in recipe.without for part in PARTS_OF[idea]))
    replace_detector(pipeline, recipe.model)
    stage = STAGES[recipe.stage].without(recipe.without)
    if "hvca" in stage.parts:
        renew_hvca(pipeline, recipe.model, recipe.seed)
    for part in stage.parts:
        if getattr(pipeline, part) is None:
            raise ValueError(f"{init_from} has no {part}; write without=[...] as the run did that saved it")
    place(pipeline, stage, frozen, device)  # first: the merge of a LoRA rounds to the precision of the LLM
    resize_lora(pipeline, recipe.model, recipe.seed)
    apply_settings(pipeline, recipe.model)
    return pipeline


def place(pipeline: FireEditPipeline, stage: Stage, frozen: torch.dtype, device: torch.device | str) -> None:
    """Move the weights of the stage's parts to `device`, one by one, each in its precision."""
    parts = FireEdit(**{name: getattr(pipeline, name) for name in stage.parts})
    for name, tensor in parts.state_dict(keep_vars=True).items():
        exact = stage.learns(name) or name.startswith("detector.")
        dtype = torch.float32 if exact else frozen
        tensor.data = tensor.data.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
