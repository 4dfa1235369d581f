"""Published checkpoints that a conversion reads: the options that name them, and checks before any work."""

import json
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from fireedit.models import checkpoint_kinds as kinds
from fireedit.models import weights
from fireedit.models.checkpoint_files import (
    CheckpointFileError,
    check_file,
    check_no_cache,
    read_tensors,
    tensor_files,
)
from fireedit.models.editors import smartedit
from fireedit.platform import storage


def _option(text: str, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class PublishedPaths:
    """Published checkpoints: folders or files as their authors publish them, with the help of their options."""

    groma: Path = _option("proposer, region encoder, adapter: FoundationVision/groma-7b-pretrain or groma-7b-finetune")
    llm: Path | None = _option(
        "lmsys/vicuna-7b-v1.5, which belongs with groma-7b-pretrain; left out, the LLM in Groma's own folder, which "
        "alone belongs with groma-7b-finetune; any other LLaMA-7B (such as LLaVA 1.1, merged, which alone belongs with "
        "SmartEdit's LoRA) works after more training, and a warning says so",
        default=None,
    )
    dinov2: Path = _option("facebook/dinov2-large, or any folder of Groma's, which contain it")
    clip: Path = _option("openai/clip-vit-large-patch14: both encoders and the tokenizer")
    instruct_pix2pix: Path = _option(
        "UNet and VAE: timbrooks/instruct-pix2pix, or Stable Diffusion 1.5 in the same layout"
    )
    detector: Path | None = _option(
        "proposer alone: FoundationVision/groma-det-pretrain; left out, the one in --groma", default=None
    )
    smartedit: Path | None = _option(
        "TencentARC/SmartEdit-7B, the folder: Q-Former, UNet and, with its own LLM alone, LoRA and rows of the new "
        "tokens; or its embeddings_qformer/checkpoint-15000_*.bin: Q-Former",
        default=None,
    )
    ip_adapter: Path | None = _option(
        "h94/IP-Adapter: models/ip-adapter-plus_sd15.safetensors or .bin; image attention starts from it", default=None
    )

    @property
    def language_model(self) -> Path:
        """Folder of the LLM and its tokenizer."""
        return self.llm or self.groma

    @property
    def proposer(self) -> Path:
        """Folder of the detector."""
        return self.detector or self.groma

    @property
    def unet(self) -> Path:
        """Folder of the UNet: SmartEdit's, where it is there."""
        return self.of_smartedit(smartedit.UNET) or self.instruct_pix2pix / "unet"

    @property
    def qformer(self) -> Path | None:
        """File of SmartEdit's Q-Former, and of the rows of the head."""
        if self.smartedit is None or not self.smartedit.is_dir():
            return self.smartedit
        return self.smartedit / Path(smartedit.QFORMER).relative_to(smartedit.SMARTEDIT)

    @property
    def lora(self) -> Path | None:
        """Folder of SmartEdit's LoRA and embeddings, where it is there."""
        return self.of_smartedit(smartedit.ADAPTER)

    def of_smartedit(self, name: str) -> Path | None:
        """Find the folder of one of SmartEdit's files; None without it."""
        folder = self.smartedit and (self.smartedit / Path(name).relative_to(smartedit.SMARTEDIT)).parent
        return folder if folder and folder.is_dir() else None


@dataclass(frozen=True)
class Source:
    """Checkpoint, and the option that names it."""

    option: str
    given: Path
    """Path that a person gave."""
    tensors: Path
    """Folder or file of the tensors."""
    kind: kinds.Kind
    part: str
    """First part that reads it."""


def sources_of(paths: PublishedPaths) -> list[Source]:
    """List all checkpoints of a conversion; those that are read for several parts come once for each kind."""
    sources = [
        Source("--dinov2", paths.dinov2, paths.dinov2, kinds.DINOV2, "vision"),
        Source("--clip", paths.clip, paths.clip, kinds.CLIP, "vision"),
        Source("--groma", paths.groma, paths.groma, kinds.GROMA, "region_encoder"),
        Source("--instruct-pix2pix", paths.instruct_pix2pix, paths.instruct_pix2pix / "vae", kinds.VAE, "vae"),
    ]
    option = "--smartedit" if paths.of_smartedit(smartedit.UNET) else "--instruct-pix2pix"
    sources.append(Source(option, paths.instruct_pix2pix, paths.unet, kinds.UNET, "unet"))
    optional = [
        ("--llm", paths.llm, paths.llm, kinds.LLAMA, "vlm"),
        ("--detector", paths.detector, paths.detector, kinds.DETECTOR, "detector"),
        ("--smartedit", paths.smartedit, paths.qformer, kinds.SMARTEDIT_QFORMER, "qformer"),
        ("--smartedit", paths.smartedit, paths.lora, kinds.SMARTEDIT_LLM, "vlm"),
        ("--ip-adapter", paths.ip_adapter, paths.ip_adapter, kinds.IP_ADAPTER, "unet"),
    ]
    found = [(option, given, tensors, *rest) for option, given, tensors, *rest in optional if given and tensors]
    return [*sources, *(Source(*each) for each in found)]  # type: ignore[arg-type]


def check_sources(sources: Iterable[Source]) -> dict[str, list[str]]:
    """Check that every checkpoint is there, whole, and of its kind; reads the names of the tensors and LLaMA's norms.

    Returns:
        For each part, names in its files that nothing is known to read or to leave out.
    Raises:
        CheckpointFileError: a file is missing, damaged or not what its name says.
        WeightsError: a checkpoint is of another kind, or a delta.
    """
    sources, unexpected = list(sources), dict[str, list[str]]()
    for source in sources:
        if not source.given.exists():
            raise CheckpointFileError(f"{source.option}: {source.given} is missing")
        if source.kind is kinds.IP_ADAPTER and source.given.is_dir():
            raise CheckpointFileError(f"{source.option}: {source.given} is a folder; give the file {source.kind.give}")
        check_no_cache(source.given)
        tensor_files(source.tensors)
    for source in sources:
        state = read_tensors(source.tensors)
        where = f"{source.part}: {source.option} {source.tensors}"
        unknown = kinds.check_kind(sorted(state), source.kind, where)
        unexpected.setdefault(source.part, []).extend(unknown)
        if source.kind is kinds.LLAMA:
            weights.require_merged(state, where)
        if source.kind is kinds.SMARTEDIT_LLM:
            check_file(adapter_config(source.given))
    return unexpected


def check_out(out: str, paths: PublishedPaths) -> None:
    """Raise CheckpointFileError if the folder to write holds another system, or is, holds or lies in one to read."""
    target = Path(storage.absolute(out)).resolve()
    for source in sources_of(paths) if not storage.is_remote(out) else ():
        given = source.given.expanduser().resolve()
        if target == given or target in given.parents or given in target.parents:
            found = f"found {out}, which is, holds or lies in {source.option} {source.given}"
            raise CheckpointFileError(f"--out: {found}; write a folder beside it")
    index = storage.join(out, "model_index.json")
    system = json.loads(storage.read_bytes(index)).get("_class_name") if storage.exists(index) else None
    if system not in (None, "FireEditPipeline"):
        raise CheckpointFileError(f"--out: found a {system} in {out}; write a folder that is new")


def adapter_config(folder: Path) -> Path:
    """Return the path of SmartEdit's adapter_config.json."""
    return folder / Path(smartedit.ADAPTER_CONFIG).relative_to(smartedit.SMARTEDIT)
