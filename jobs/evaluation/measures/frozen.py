"""Published encoders in transformers' layout, loaded whole or not at all."""

from pathlib import Path
from typing import Any

import torch

from fireedit.models.checkpoint_files import CheckpointFileError, check_folder, read_json, tensor_files
from fireedit.models.weights import WeightsError


def load_frozen(kind: Any, folder: Path, model_type: str, published: str, **options: Any) -> Any:
    """Load an encoder in float32 for inference; transformers would draw missing tensors at random.

    Args:
        kind: transformers' class.
        model_type: `model_type` that config.json must name.
        published: repository on the Hugging Face Hub that the errors name.
        options: entries of the config to replace, and arguments of the class.
    Raises:
        CheckpointFileError: a file is missing, damaged, or not what its name says.
        WeightsError: the folder holds another model, or lacks tensors.
    """
    check_frozen(folder, model_type, published)
    advice = f"write the files of {published} there"
    try:
        model, info = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **options
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise WeightsError(f"{folder}: the tensors do not fit config.json ({reason}); {advice}") from error
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(f"{folder} lacks {len(missing)} tensors, such as {missing[0]}; {advice}")
    return model.eval().requires_grad_(False)


def check_frozen(folder: Path, model_type: str, published: str) -> None:
    """Check the files of an encoder without loading its tensors; arguments and errors as of `load_frozen`."""
    advice = f"write the files of {published} there"
    if not (folder / "config.json").is_file():
        raise CheckpointFileError(f"{folder / 'config.json'} is missing; {advice}")
    check_folder(folder)
    tensor_files(folder)
    found = read_json(folder / "config.json").get("model_type")
    if found != model_type:
        raise WeightsError(f"{folder} holds a model of type {found!r}, not {model_type!r}; {advice}")
