"""Speed of the parts: switches of inference, compilation, and which attention they run, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
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
BatchedPart = Literal["unet", "tati", "encoder", "decoder"]
"""Parts of painting that `SpeedConfig` compiles; encoder and decoder are the VAE's."""


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """Switches of inference, all off; each says how far its pictures are those without it.

    Exact: on a CPU in float32 byte for byte, elsewhere within the rounding of the device's kernels. Within rounding:
    the same mathematics, summed or rounded in another order. Approximate: other pictures; docs/speed.md has the drift.
    """

    share_keys: bool = False
    """Compute keys and values of null text and detail tokens once per edit, and those of the timed tokens once for all
    branches and copies that read them. Exact. It saves 0.4 % of a step's operations, but takes 32 projections out of
    the compiled UNet, some 190 launches a step at the paper's size. A UNet that diffusers offloads ignores it."""
    channels_last: bool = False
    """Lay out UNet and VAE with the channels last, as the convolutions of tensor cores want them. Within rounding."""
    compile: Mapping[BatchedPart, tuple[PositiveInt, ...]] = field(default_factory=dict)
    """Sizes of the batches that torch compiles each part for, on a GPU into CUDA graphs; smaller batches are padded,
    larger ones run uncompiled. The first call of each size takes a minute or more, and needs a C compiler. Within
    rounding: inductor keeps intermediates of fused kernels in float32 where the part's precision is bfloat16."""
    backend: str = "inductor"
    """Backend of torch.compile; `eager` compiles nothing, for tests."""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """Timesteps with guidance, as shares of the schedule: 0 is clean, 1 pure noise. In others the first branch runs
    alone. Approximate (arXiv 2404.07724)."""
    reuse_every: PositiveInt = 1
    """Steps for which the UNet's deep features serve; 1 computes them in each. Approximate (arXiv 2312.00858)."""
    prefixes: NonNegativeInt = 0
    """Pictures whose beginning of the prompt the LLM keeps for further edits of them, 0.2 GB each at the paper's size
    in bfloat16. A picture that is not kept costs two passes for one: it pays where pictures are edited repeatedly.
    Within rounding. Not with diffusers' offloading."""
    llm_weights: Literal["int8", "fp8"] | None = None
    """Precision in which the LLM's weights are stored, by torchao; None leaves them as they are, in 8 bits too if an
    earlier call stored them so. Approximate."""

    def __post_init__(self) -> None:
        """Check and convert the values as a recipe's are, also where they come from Python.

        Raises:
            ValueError: a switch has another type or is out of its range.
        """
        for name, hint in get_type_hints(SpeedConfig, include_extras=True).items():
            try:
                object.__setattr__(self, name, TypeAdapter(hint).validate_python(getattr(self, name)))
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(map(str, (name, *first["loc"])))
                raise ValueError(f"{key}: {first['msg']}, found {first['input']!r}") from None
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval: found [{low:g}, {high:g}]; write the smaller share first")
        for part, sizes in self.compile.items():
            if not sizes:
                raise ValueError(f"compile: found no sizes for {part}; write some, such as {part}: [1, 3]")

    def guides(self, timestep: float, timesteps: int) -> bool:
        """Tell whether a timestep of a schedule of so many is guided."""
        low, high = self.guidance_interval
        return low * timesteps <= timestep <= high * timesteps


def accelerate(pipeline: FireEditPipeline, config: SpeedConfig) -> None:
    """Set the switches of a pipeline in place; what an earlier call switched on and `config` does not is off again.

    `llm_weights` alone cannot be undone: None leaves the weights as they are. The pipeline is on the device and in the
    precision that it will run in. Parts that it lacks are left out. Compiled parts are compiled anew, and other
    compiled code of the process with them.

    Raises:
        ImportError: `llm_weights` needs torchao, which is not installed.
        ValueError: the LLM's weights are stored in 8 bits of another kind.
    """
    if pipeline.vlm is not None:
        quantize(pipeline.vlm, config.llm_weights)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    for part in (pipeline.unet, pipeline.vae):
        if isinstance(part, UNet2DConditionModel | AutoencoderKL):
            part.to(memory_format=layout)
    found: dict[BatchedPart, nn.Module | None] = {"unet": pipeline.unet, "tati": pipeline.tati}
    if isinstance(pipeline.vae, AutoencoderKL):
        found |= {"encoder": pipeline.vae.encoder, "decoder": pipeline.vae.decoder}
    parts = {name: part for name, part in found.items() if part is not None}
    if compiled := [part for part in parts.values() if isinstance(part._compiled_call_impl, FixedBatches)]:
        for part in compiled:
            part._compiled_call_impl = None
        torch.compiler.reset()  # frees the memory of CUDA graphs
    for name, sizes in config.compile.items():
        if name in parts:
            compile_batches(parts[name], sizes, config.backend, layout)
    pipeline.speed, pipeline.prefixes = config, Prefixes(config.prefixes) if config.prefixes else None


def compile_batches(
    module: nn.Module,
    sizes: Sequence[int],
    backend: str = "inductor",
    layout: torch.memory_format = torch.contiguous_format,
) -> None:
    """Compile a module in place for batches of fixed sizes, each at its first call; the names of its weights stay.

    Args:
        layout: memory format of the images and latents that the compiled calls get.
    """
    options: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": False}
    if backend == "inductor" and next(module.parameters()).device.type == "cuda":
        options["mode"] = "reduce-overhead"  # CUDA graphs
    plain: Any = module._call_impl
    compiled = torch.compile(plain, **options)
    module._compiled_call_impl = FixedBatches(compiled, plain, sizes, layout)  # as nn.Module.compile does


def quantize(vlm: VLM, weights: Literal["int8", "fp8"] | None) -> None:
    """Store the weights of the LLM's linear layers in 8 bits, in place; they are computed with in their old precision.

    Args:
        weights: their precision; None leaves them as they are.
    Raises:
        ImportError: torchao is not installed.
        ValueError: they are stored in 8 bits already, of another kind.
    """
    if weights is None or weights == vlm.stored_weights:
        return
    if vlm.stored_weights is not None:
        raise ValueError(
            f"llm_weights: found the LLM stored in {vlm.stored_weights}, which cannot be undone; write "
            f"{vlm.stored_weights}, or load the pipeline again"
        )
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ImportError(
            f"llm_weights={weights!r} needs torchao, which is not installed; run: pip install torchao"
        ) from error
    config = Int8WeightOnlyConfig() if weights == "int8" else Float8WeightOnlyConfig()
    quantize_(vlm.llm.model, config, lambda part, name: isinstance(part, nn.Linear) and "lora_" not in name)
    vlm.stored_weights = weights


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
