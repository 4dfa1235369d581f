"""Tensors of each part of the model, from the published checkpoints and, where those have none, fresh."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import init_empty_weights
from torch import Tensor

from fireedit.jobs.training.published_files import PublishedPaths, adapter_config
from fireedit.models import checkpoint_kinds as kinds
from fireedit.models import weights
from fireedit.models.checkpoint_files import read_json, read_tensors
from fireedit.models.hvca import HVCA
from fireedit.models.model import FireEditConfig
from fireedit.models.qformer import QFormer
from fireedit.models.tati import TATI
from fireedit.models.vlm import VLM, VLMConfig

COMPARED = "llm.model.layers.0.mlp.up_proj.weight"
"""A projection that differs between any two finetuned LLMs."""
DIFFERENT = 0.1
"""Share of differing numbers above which two LLMs are not the same."""
NEW_TABLES = ("new_embeddings.weight", "new_head.weight")
"""Rows of the new tokens in the VLM; they extend `weights.TABLES`."""


@dataclass(frozen=True)
class Filling:
    """Tensors of one part under its own names, mapped from their files where they are published."""

    published: dict[str, Tensor] = field(default_factory=dict)
    fresh: dict[str, Tensor] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    give: str = ""
    """Words for the checkpoints that fit."""
    partly: dict[str, str] = field(default_factory=dict)
    """Published tensors of which a part is fresh, and that part in words."""
    notes: tuple[str, ...] = ()
    """Warnings to a person."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {**self.published, **self.fresh}


def vision(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    state = weights.dinov2(read_tensors(paths.dinov2)) | weights.clip_vision(read_tensors(paths.clip))
    return Filling(state, files=(paths.dinov2, paths.clip), give=f"{kinds.DINOV2.give} and {kinds.CLIP.give}")


def text_encoder(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    return Filling(weights.clip_text(read_tensors(paths.clip)), files=(paths.clip,), give=kinds.CLIP.give)


def detector(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    state = weights.groma_detector(read_tensors(paths.proposer))
    return Filling(state, files=(paths.proposer,), give=kinds.DETECTOR.give)


def region_encoder(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    state = weights.groma_region_encoder(read_tensors(paths.groma))
    return Filling(state, files=(paths.groma,), give=kinds.GROMA.give)


def unet(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    """Fill the UNet; without an IP-Adapter its image attention starts as a no-op.

    Raises:
        WeightsError: a layer is missing, or the IP-Adapter is another one than that of Stable Diffusion 1.5.
    """
    published = weights.smartedit_unet(read_tensors(paths.unet))
    ip_adapter = read_tensors(paths.ip_adapter) if paths.ip_adapter else None
    files = (paths.unet, paths.ip_adapter) if paths.ip_adapter else (paths.unet,)
    try:
        state = weights.stable_diffusion_unet(published, ip_adapter)
    except weights.WeightsError as error:
        raise weights.WeightsError(f"unet: {' with '.join(map(str, files))}: {error}") from None
    fresh = {} if ip_adapter else {name: state.pop(name) for name in state.keys() - published.keys()}
    old, new = published["conv_in.weight"].shape[1], state["conv_in.weight"].shape[1]
    partly = {"conv_in.weight": f"{new - old} of {new} channels fresh"} if old < new else {}
    return Filling(state, fresh, files, kinds.UNET.give, partly)


def vae(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    folder = paths.instruct_pix2pix / "vae"
    return Filling(weights.stable_diffusion_vae(read_tensors(folder)), files=(folder,), give=kinds.VAE.give)


def qformer(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    if paths.qformer is None:
        return Filling(fresh=QFormer(config.qformer).state_dict())
    state = weights.smartedit_qformer(read_tensors(paths.qformer))
    return Filling(state, files=(paths.qformer,), give=kinds.SMARTEDIT_QFORMER.give)


def tati(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    return Filling(fresh=TATI(config.tati).state_dict())


def hvca(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    return Filling(fresh=HVCA(config.hvca).state_dict())


def vlm(paths: PublishedPaths, config: FireEditConfig) -> Filling:
    """Fill the VLM: an LLM, Groma's adapter, SmartEdit's LoRA and rows of new tokens, or fresh ones.

    Raises:
        WeightsError: there are no tables of tokens, or SmartEdit's LoRA or tables have other sizes.
    """
    sizes, groma = config.vlm, read_tensors(paths.groma)
    llm = groma if paths.llm is None else read_tensors(paths.llm)
    llm = weights.language_model(llm, sizes.vocab_size, sizes.lora_targets)
    if not {*weights.TABLES} <= llm.keys():
        wanted = " or ".join(weights.TABLES)
        raise weights.WeightsError(f"vlm: found no {wanted} in {paths.language_model}; give a LLaMA")
    notes = _note_on_another_llm(weights.language_model(groma, sizes.vocab_size, sizes.lora_targets), llm, paths)
    lora, tables, more = _smartedit_lora(paths, llm, sizes)
    tokens, published, fresh = sizes.prompt.new_tokens, dict[str, Tensor](), dict[str, Tensor]()
    for new, old, rows in zip(NEW_TABLES, weights.TABLES, tables, strict=True):
        (fresh if rows is None else published)[new] = weights.new_rows(tokens, llm[old], rows)
    unknown = sum(token not in weights.SMARTEDIT_TOKENS for token in tokens)
    partly = dict.fromkeys(published, f"{unknown} of {len(tokens)} rows fresh") if unknown else {}
    if not lora:
        with init_empty_weights():
            outline = VLM(sizes)
        fresh |= weights.fresh_lora(outline)
    # The small ones first: the LLM's files are let go one by one as they are written.
    published = {**weights.groma_adapter(groma), **published, **lora, **llm}
    files = dict.fromkeys(path for path in (paths.language_model, paths.groma, paths.lora if lora else None) if path)
    give = f"{kinds.LLAMA.give} with {kinds.GROMA.give}"
    return Filling(published, fresh, tuple(files), give, partly, (*notes, *more))


def is_llms_own(name: str) -> bool:
    """Return whether a tensor of the VLM is the LLM's, not its LoRA's."""
    return name.startswith("llm.") and ".lora_" not in name


def _note_on_another_llm(
    own: Mapping[str, Tensor], llm: Mapping[str, Tensor], paths: PublishedPaths
) -> tuple[str, ...]:
    """Write a warning unless `llm` is the LLM in Groma's files."""
    advice = (
        "give --llm lmsys/vicuna-7b-v1.5 to groma-7b-pretrain, and none to groma-7b-finetune, whose own is then taken"
    )
    if COMPARED not in own:
        found = f"found no LLM in {paths.groma} to compare with {paths.language_model}"
        return (f"region_encoder: {found}; {advice}",)
    if (differing := _difference(own, llm)) > DIFFERENT:
        found = f"that of {paths.groma} was trained with another LLM than {paths.llm}"
        return (f"region_encoder: {found}, as {differing:.0%} of {COMPARED} differ; {advice}",)
    return ()


def _smartedit_lora(
    paths: PublishedPaths, llm: Mapping[str, Tensor], sizes: VLMConfig
) -> tuple[dict[str, Tensor], tuple[Tensor | None, Tensor | None], tuple[str, ...]]:
    """Read SmartEdit's LoRA and its tables with new rows, of embeddings and head, unless it is of another LLM.

    Returns:
        LoRA, tables, and warnings; without a LoRA an empty one and no tables.
    Raises:
        WeightsError: its rank, alpha or targets are not those of the VLM.
    """
    if paths.lora is None or paths.smartedit is None or paths.qformer is None:
        return {}, (None, None), ()
    config = read_json(adapter_config(paths.smartedit), "r", "lora_alpha", "target_modules")
    found = (config["r"], config["lora_alpha"], sorted(config["target_modules"] or ()))
    wanted = (sizes.lora_rank, sizes.lora_alpha, sorted(sizes.lora_targets))
    if found != wanted:
        given = f"{paths.lora} has a LoRA of rank, alpha and targets {found}"
        raise weights.WeightsError(f"vlm: {given}, not {wanted}; give --smartedit its Q-Former's .bin file alone")
    state = weights.smartedit_llm(read_tensors(paths.lora))
    tensors = weights.language_model(state, sizes.vocab_size, sizes.lora_targets)
    if COMPARED in tensors and (differing := _difference(tensors, llm)) > DIFFERENT:
        note = (
            f"vlm: the LoRA and the rows of new tokens begin afresh, as those of {paths.lora} were trained on another "
            f"LLM than {paths.language_model}: {differing:.0%} of {COMPARED} differ; theirs is LLaVA 1.1, merged"
        )
        return {}, (None, None), (note,)
    tables = (state["model.embed_tokens.weight"], read_tensors(paths.qformer).get("lm_head.weight"))
    return {name: tensor for name, tensor in tensors.items() if ".lora_" in name}, tables, ()


def _difference(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Compute the share of differing numbers of COMPARED in bfloat16, in which either of two LLMs may be published."""
    first, second = own[COMPARED], other.get(COMPARED)
    if second is None or first.shape != second.shape:
        return 1.0
    rows = zip(first.split(1024), second.split(1024), strict=True)  # the whole in bfloat16 would take much memory
    return sum(int((a.bfloat16() != b.bfloat16()).sum()) for a, b in rows) / first.numel()
