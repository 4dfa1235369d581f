"""Speed of the parts: switches of inference, compilation, and which attention they run, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from fireedit.models.fixed_batches import FixedBatches
from fireedit.models.model import FireEdit
from fireedit.models.prefix import Prefixes
from fireedit.models.vlm import CAUSAL_SDPA, VLM

if TYPE_CHECKING:
    from fireedit.models.pipeline import FireEditPipeline

Compiled = Literal["unet"]
"""Parts that `compile_parts` takes: those whose shapes are the same in every step. The vision tower is none of them: it
returns other hidden states of its middle layers if it is compiled, and detector and region encoder read these."""
WORDS = {"sdpa": "SDPA", CAUSAL_SDPA: "SDPA", "flash_attention_2": "flash attention 2", "AttnProcessor": "eager"}
"""Words for the names that transformers and diffusers give; others are told as they are."""
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """Switches of inference, all off but the first; each says how far its pictures are those without it.

    Exact: on a CPU in float32 byte for byte, elsewhere within the rounding of the device's kernels. Within rounding:
    the same mathematics, summed in another order. Approximate: other pictures; docs/speed.md has the drift.
    """

    share_keys: bool = True
    """Compute keys and values of null text and detail tokens once per edit, and those of the timed tokens once for all
    branches and copies that read them. Exact. A UNet that diffusers offloads computes them in each step."""
    channels_last: bool = False
    """Lay out UNet and VAE with the channels last, as the convolutions of tensor cores want them. Within rounding."""
    compile: tuple[Literal["unet", "tati", "vae"], ...] = ()
    """Parts that torch compiles for each of `batch_sizes`, on a GPU into CUDA graphs; the first call of each size takes
    a minute or more, and needs a C compiler. Within rounding."""
    batch_sizes: tuple[PositiveInt, ...] = (1, 3, 6, 12, 24)
    """Samples of the batches that are compiled; smaller ones are padded, larger ones run as without `compile`."""
    backend: str = "inductor"
    """Backend of torch.compile; `eager` compiles nothing, for tests."""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """Timesteps with guidance, as shares of the schedule: 0 is clean, 1 pure noise. In others the first branch runs
    alone. Approximate (arXiv 2404.07724)."""
    reuse_every: PositiveInt = 1
    """Steps for which the UNet's deep features serve; 1 computes them in each. Approximate (arXiv 2312.00858)."""
    prefixes: NonNegativeInt = 0
    """Pictures whose beginning of the prompt the LLM keeps for further edits of them, 0.2 GB each at the paper's size
    in bfloat16. Within rounding. Not with diffusers' offloading."""
    llm_weights: Literal["int8", "fp8"] | None = None
    """Precision in which the LLM's weights are stored, by torchao; None leaves them as they are. Approximate."""

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval: found [{low:g}, {high:g}]; write the smaller share first")
        if self.compile and not self.batch_sizes:
            raise ValueError("batch_sizes: found none for compile; write some, such as [3, 6]")

    def guides(self, timestep: float, timesteps: int) -> bool:
        """Tell whether a timestep of a schedule of so many is guided."""
        low, high = self.guidance_interval
        return low * timesteps <= timestep <= high * timesteps


def accelerate(pipeline: FireEditPipeline, config: SpeedConfig) -> None:
    """Apply switches to a pipeline in place, once, on the device and in the precision that it will run in.

    Parts that the pipeline lacks are left out.

    Raises:
        ImportError: `llm_weights` needs torchao, which is not installed.
    """
    if config.llm_weights is not None and pipeline.vlm is not None:
        quantize(pipeline.vlm, config.llm_weights)
    if config.channels_last:
        for part in (pipeline.unet, pipeline.vae):
            if isinstance(part, UNet2DConditionModel | AutoencoderKL):
                part.to(memory_format=torch.channels_last)
    parts = (pipeline.vae.decoder, pipeline.vae.encoder) if isinstance(pipeline.vae, AutoencoderKL) else ()
    chosen: dict[str, tuple[Any, ...]] = {"unet": (pipeline.unet,), "tati": (pipeline.tati,), "vae": parts}
    for part in (part for name in config.compile for part in chosen[name]):
        if part is not None:
            compile_batches(part, config.batch_sizes, config.backend)
    pipeline.speed, pipeline.prefixes = config, Prefixes(config.prefixes) if config.prefixes else None


def compile_batches(module: nn.Module, sizes: Sequence[int], backend: str = "inductor") -> None:
    """Compile a module in place for batches of fixed sizes, each at its first call; the names of its weights stay."""
    options: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": False}
    if backend == "inductor" and next(module.parameters()).device.type == "cuda":
        options["mode"] = "reduce-overhead"  # CUDA graphs
    limit, wanted = torch._dynamo.config.recompile_limit, 4 * len(sizes)  # with and without reuse, and spare
    torch._dynamo.config.recompile_limit = max(limit, wanted)
    plain: Any = module._call_impl
    module._compiled_call_impl = FixedBatches(torch.compile(plain, **options), plain, sizes)  # as nn.Module.compile


def quantize(vlm: VLM, weights: Literal["int8", "fp8"]) -> None:
    """Store the weights of the LLM's linear layers in 8 bits, in place; they are computed with in their old precision.

    Raises:
        ImportError: torchao is not installed.
    """
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ImportError(
            f"llm_weights={weights!r} needs torchao, which is not installed; run: pip install torchao"
        ) from error
    config = Int8WeightOnlyConfig() if weights == "int8" else Float8WeightOnlyConfig()
    quantize_(vlm.llm.model, config, lambda part, name: isinstance(part, nn.Linear) and "lora_" not in name)


def attention_in_words(model: FireEdit) -> str:
    """Say which attention the parts run, such as `SDPA with flash kernels in vision, vlm, unet; eager in qformer`."""
    parts: dict[str, list[str]] = {}
    for name, part in model.named_children():
        for word in sorted({_words(module, found) for module in part.modules() for found in _implementations(module)}):
            parts.setdefault(word, []).append(name)
    return "; ".join(f"{word} in {', '.join(names)}" for word, names in parts.items())


def compile_parts(model: FireEdit, parts: Sequence[Compiled], backend: str = "inductor") -> None:
    """Compile parts in place, each at its first call, which takes minutes; the names of their weights stay."""
    for part in (getattr(model, name) for name in parts):
        for module in part.modules():
            if isinstance(module, PreTrainedModel):  # in its first call it does so under a lock, which breaks the graph
                maybe_install_capturing_hooks(module)
        part.compile(backend=backend)


def _implementations(module: nn.Module) -> set[str]:
    """Return the names of a model's attention implementations; none for its layers and for other modules."""
    if isinstance(module, PreTrainedModel):
        return {module.config._attn_implementation}
    if isinstance(module, UNet2DConditionModel):
        names = {type(processor).__name__ for processor in module.attn_processors.values()}
        return {"sdpa" if name.endswith("2_0") else name for name in names}
    return set()


def _words(module: nn.Module, implementation: str) -> str:
    """Choose the words for an implementation; torch's SDPA has flash kernels for half precision on GPUs."""
    weight = next(module.parameters())
    half, on_gpu = weight.dtype in (torch.float16, torch.bfloat16), weight.device.type == "cuda"
    words = WORDS.get(implementation, implementation)
    flash = words == "SDPA" and half and on_gpu and torch.backends.cuda.flash_sdp_enabled()
    return f"{words} with flash kernels" if flash else words
