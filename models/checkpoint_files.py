"""Checkpoint files on disk: tensors, JSON and tokenizers, each checked to be what its name says."""

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

STEMS = ("model", "diffusion_pytorch_model", "pytorch_model", "adapter_model")
"""Names of published weights without their suffix, in order of preference."""
VARIANTS = ("", ".fp16")
"""Ends of these names, in order of preference."""
SUFFIXES = (".safetensors", ".bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Vocabularies of a tokenizer, in order of preference."""
LFS_POINTER, WEB_PAGE = b"version https://git-lfs", (b"<!doctype", b"<html", b"<?xml")
"""First bytes, in lower case, of files that stand in for a real one."""


class CheckpointFileError(OSError):
    """A checkpoint file is missing, damaged, or not what its name says."""


def quiet_loading() -> None:
    """Turn off the bars and reports that diffusers and transformers print while they load weights."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()


def check_file(path: Path) -> None:
    """Raise CheckpointFileError unless the file is there and looks like what its suffix says; reads no tensors."""
    if not path.is_file():
        raise CheckpointFileError(f"{path} is missing; download it again")
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if not head:
        raise CheckpointFileError(f"{path} is empty; download it again")
    if head.startswith(LFS_POINTER):
        raise CheckpointFileError(f"{path} is a Git LFS pointer, not the file; run `git lfs pull` in its folder")
    if head.startswith(WEB_PAGE):
        link = f".../resolve/main/{path.name} on the Hugging Face Hub, not .../blob/main/{path.name}"
        raise CheckpointFileError(f"{path} is a web page, not the file; download it again from its own link ({link})")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise CheckpointFileError(f"{path} is not a whole {path.suffix} file ({error}); download it again") from None


def check_pipeline(folder: Path, components: Iterable[str]) -> None:
    """Check the files of a saved pipeline's components before anything is loaded."""
    if folder.is_dir():
        check_file(folder / "model_index.json")
    for name in components:
        check_folder(folder / name)


def check_folder(folder: Path) -> Path:
    """Check the JSON and safetensors files of a saved component; returns the folder."""
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors"):
            check_file(path)
    return folder


def tensor_files(path: Path) -> list[Path]:
    """List the file, or the files with a folder's weights, whole or in shards; safetensors before pickles.

    Raises:
        CheckpointFileError: there are none, or one of them is not what its name says.
    """
    files = [path] if path.is_file() or path.suffix in SUFFIXES else _weights_in(path)
    for file in files:
        check_file(file)
    return files


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file or of a folder's weights (see `tensor_files`).

    They are mapped from their files, but for pickles from before torch 1.6: a tensor takes memory once its values are
    read, until nothing refers to any tensor of its file.

    Raises:
        CheckpointFileError: a file is missing, damaged, or holds more than tensors.
    """
    return {name: tensor for file in tensor_files(path) for name, tensor in _read_file(file).items()}


def read_lightning(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint of PyTorch Lightning, which holds callbacks and settings besides.

    Objects of other classes than tensors and plain containers become mute stand-ins: no code of the file runs.

    Raises:
        CheckpointFileError: the file is missing or damaged, or holds no `state_dict`.
    """
    check_file(path)
    try:
        strange = [(_StandIn, name) for name in get_unsafe_globals_in_checkpoint(path)]
        with safe_globals(strange):  # type: ignore[arg-type]  # pairs of a class and a name are taken too
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # bytes that are no pickle fail in any way
        raise CheckpointFileError(f"{path} is no checkpoint of Lightning ({_first_line(error)})") from error
    if not isinstance(held, dict) or "state_dict" not in held:
        raise CheckpointFileError(f"{path} holds no state_dict; give a checkpoint of PyTorch Lightning")
    return dict(held["state_dict"])


class _StandIn:
    """Object of a class that is not loaded."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def write_tensors(
    tensors: dict[str, Tensor], folder: Path, stem: str, dtypes: Mapping[str, torch.dtype], shard_bytes: int
) -> None:
    """Write `STEM.safetensors` into an existing folder or, if that were larger than a shard, shards and their index.

    Memory holds one shard. Tensors leave the dict as they are written, so that a file from which they are mapped is
    let go after the last of them: those of one file should follow each other.

    Args:
        dtypes: precision of each tensor in the file.
        shard_bytes: size of a file, larger only for a single tensor.
    """
    planned = {name: torch.empty(each.shape, dtype=dtypes[name], device="meta") for name, each in tensors.items()}
    pattern = f"{stem}{{suffix}}.safetensors"
    plan = split_torch_state_dict_into_shards(planned, filename_pattern=pattern, max_shard_size=shard_bytes)
    for name, held in plan.filename_to_tensors.items():
        shard = {tensor: tensors.pop(tensor).to(dtypes[tensor]).contiguous() for tensor in held}
        safetensors.torch.save_file(shard, folder / name, metadata={"format": "pt"})
        del shard
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read a config, which must have the given keys.

    Raises:
        CheckpointFileError: it is missing, damaged, or of another kind.
    """
    check_file(path)
    held = json.loads(path.read_bytes())
    if not isinstance(held, dict):
        raise CheckpointFileError(f"{path} holds a {type(held).__name__}, not an object; download it again")
    if absent := [key for key in keys if key not in held]:
        raise CheckpointFileError(f"{path} has no {absent[0]!r}, so it is of another kind; download it again")
    return held


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a published tokenizer; one with `tokenizer.model` alone, as Vicuna's and LLaVA's, is LLaMA's.

    Raises:
        CheckpointFileError: the folder holds none, or a file of it is damaged.
    """
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        raise CheckpointFileError(f"{folder}: found no tokenizer; it should hold one of {', '.join(TOKENIZER_FILES)}")
    for path in (folder / present[0], *sorted(folder.glob("*token*.json"))):
        check_file(path)
    try:
        # AutoTokenizer ignores the space that SentencePiece puts before the first word, unless config.json says LLaMA.
        kind = LlamaTokenizer if present[0] == "tokenizer.model" else AutoTokenizer
        return kind.from_pretrained(folder)
    except Exception as error:  # tokenizers raises nothing more specific
        path = folder / present[0]
        raise CheckpointFileError(f"{path}: no tokenizer can be read from it ({error}); download it again") from error


def check_no_cache(folder: Path) -> None:
    """Raise CheckpointFileError for the root of a repository in the Hugging Face Hub's cache, above its files."""
    if snapshots := sorted(folder.glob("snapshots/*/")):
        raise CheckpointFileError(f"{folder} is the Hub's cache, not the folder of the files; give it {snapshots[-1]}")


def _weights_in(folder: Path) -> list[Path]:
    check_no_cache(folder)
    for variant in VARIANTS:
        for kind in ("safetensors", "bin"):
            for stem in STEMS:
                index = folder / f"{stem}.{kind}.index{variant}.json"
                if index.is_file():
                    places = read_json(index, "weight_map")["weight_map"]
                    return [folder / shard for shard in sorted(set(places.values()))]
                if (folder / f"{stem}{variant}.{kind}").is_file():
                    return [folder / f"{stem}{variant}.{kind}"]
    names = ", ".join(f"{stem}.safetensors" for stem in STEMS)
    raise CheckpointFileError(f"{folder}: found no weights; it should hold one of {names}, their index, or .bin files")


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # bytes that are no pickle fail in any way
        raise CheckpointFileError(_no_tensors(path, _first_line(error))) from error
    tensors = dict(_flat(held)) if isinstance(held, Mapping) else {"": held}
    if strange := [name for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise CheckpointFileError(_no_tensors(path, f"{strange[0]!r} is a {type(tensors[strange[0]]).__name__}"))
    return tensors


def _no_tensors(path: Path, found: str) -> str:
    return f"{path} is not a file of tensors alone ({found}); download it again from its publisher"


def _flat(held: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Walk the tensors of a dict of dicts, as IP-Adapter's pickles are, under the names that its safetensors have."""
    for name, value in held.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
