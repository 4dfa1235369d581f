"""Parts of the benchmark of one card, each a generator of rows, which run in processes of their own or share one."""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from fireedit.benchmarks.speed import card, plain
from fireedit.benchmarks.speed.edits import BRANCHES, Edits, sizes, step_flops
from fireedit.benchmarks.speed.report import Row
from fireedit.models.layers.component import DTYPES
from fireedit.models.model import FireEditConfig
from fireedit.models.speed import SpeedConfig, accelerate

STEPS, MORE_STEPS = 50, 100
COUNTS, LARGE = (1, 4, 8, 16), 8
OFF = SpeedConfig()
STEPS_COMPILED = SpeedConfig(channels_last=True, compile={"unet": (1, BRANCHES), "tati": (1,)})
ALL_COMPILED = replace(STEPS_COMPILED, compile={**STEPS_COMPILED.compile, "encoder": (1,), "decoder": (1,)})
"""Switches that keep the picture within rounding, for a single edit, guided or not."""
IN_TURN: Mapping[str, dict[str, Any]] = {
    "share_keys": {"share_keys": True},
    "channels_last": {"channels_last": True},
    "guidance_interval 0.2 to 0.8": {"guidance_interval": (0.2, 0.8)},
    "reuse_every 3": {"reuse_every": 3},
    "prefixes 2, a further edit of the same picture": {"prefixes": 2},
}
"""Switches, each alone."""


@dataclass
class Bench:
    """Device and sizes of a run, and the pipeline that the parts of a process share."""

    device: torch.device
    dtype: torch.dtype
    tiny: bool
    until_end: ExitStack
    """Contexts that last as long as the parts of this process."""
    kept: Edits | None = None

    @property
    def config(self) -> FireEditConfig:
        return sizes(self.tiny)

    @property
    def backend(self) -> str:
        """Backend of torch.compile; `eager` compiles nothing."""
        return "inductor" if self.device.type == "cuda" else "eager"

    @property
    def steps(self) -> int:
        return 4 if self.tiny else STEPS

    @property
    def more_steps(self) -> int:
        return self.steps * MORE_STEPS // STEPS

    @property
    def edits(self) -> Edits:
        """Pipeline of random weights, built at its first use."""
        self.kept = self.kept or Edits.fresh(self.config, self.device, self.dtype)
        return self.kept

    def free(self) -> None:
        """Give the pipeline's memory back."""
        self.kept = None
        card.restart_peak(self.device)

    def join_group(self) -> None:
        """Make the process group of training, once: DeepSpeed keeps the first one of a process."""
        from fireedit.platform.train.session import process_group  # needs the packages of checkpoints

        if not torch.distributed.is_initialized():
            self.until_end.enter_context(process_group(gpus=self.device.type == "cuda"))

    def compiling(self, speed: SpeedConfig) -> AbstractContextManager[None]:
        """Apply switches for the block, compiled as the device can: on a CPU not at all, which would take minutes."""
        return self.edits.switched(replace(speed, backend=self.backend))

    def measure(self, switches: str, steps: int, skips: bool = False, **options: Any) -> Row:
        """Measure an edit, and its operations a second where its steps skip none.

        Args:
            options: those of `Edits.latency`.
        """
        card.restart_peak(self.device)
        row: Row = {"switches": switches, "steps": steps, **self.edits.latency(steps, **options)}
        row["flops_per_s"] = None if skips else step_flops(self.config) / (row["step_ms"] / 1000)
        return row | self.peaks()

    def peaks(self) -> Row:
        """Read the memory since the last `card.restart_peak`."""
        return {"peak_gib": card.peak_gib(self.device), "reserved_gib": card.reserved_gib(self.device)}


def measure_roofline(bench: Bench) -> Iterator[Row]:
    """Measure what the card itself multiplies and copies."""
    side, copied = (256, 2**22) if bench.tiny else (8192, 2**31)
    yield asdict(card.measure_roofline(bench.device, bench.dtype, side, copied))


def plain_edit(bench: Bench) -> Iterator[Row]:
    """Measure an edit without switches."""
    for steps in (bench.steps, bench.more_steps):
        yield bench.measure("plain", steps)


def compiled_edit(bench: Bench) -> Iterator[Row]:
    """Measure an edit of compiled parts, those of every step first, and its difference to the plain one."""
    latents = bench.edits.edit(bench.steps)
    with bench.compiling(STEPS_COMPILED):
        yield warmed_up(bench) | bench.measure("channels_last, UNet and TATI compiled", bench.steps, plain=latents)
    name = "channels_last, UNet, TATI and VAE compiled"
    with bench.compiling(ALL_COMPILED):
        yield warmed_up(bench) | bench.measure(name, bench.steps, plain=latents)
        yield bench.measure(f"{name}; noise drawn on the CPU, as served", bench.steps, noise_from="cpu")
        yield bench.measure(name, bench.more_steps)


def compiled_share_keys(bench: Bench) -> Iterator[Row]:
    """Measure a compiled edit whose keys and values of null text are computed once, outside of the graphs."""
    latents = bench.edits.edit(bench.steps)
    with bench.compiling(replace(ALL_COMPILED, share_keys=True)):
        name = "channels_last, UNet, TATI and VAE compiled, share_keys"
        yield warmed_up(bench) | bench.measure(name, bench.steps, plain=latents)


def warmed_up(bench: Bench, count: int = 1) -> Row:
    """Compile in an edit of two steps; CUDA graphs are recorded in the second."""
    begun = time.monotonic()
    bench.edits.edit(2, count)
    card.wait_for(bench.device)
    return {"warm_up_s": time.monotonic() - begun}


def switches_in_turn(bench: Bench) -> Iterator[Row]:
    """Measure an edit with each switch alone; nothing is compiled."""
    latents = bench.edits.edit(bench.steps)
    for name, change in IN_TURN.items():
        speed = SpeedConfig(**change)
        skips = speed.reuse_every > 1 or speed.guidance_interval != OFF.guidance_interval
        with bench.edits.switched(speed):
            yield bench.measure(name, bench.steps, skips, plain=latents)
    yield bench.measure("noise drawn on the CPU, as served", bench.steps, noise_from="cpu")


def llm_weights(bench: Bench) -> Iterator[Row]:
    """Measure an edit with the LLM's weights in 8 bits, which change a pipeline for good."""
    latents = bench.edits.edit(bench.steps)
    for weights in ("int8", "fp8"):
        bench.free()
        try:
            accelerate(bench.edits.pipeline, SpeedConfig(llm_weights=weights))
        except ImportError as error:
            yield {"switches": f"llm_weights {weights}", "skipped": str(error)}
            continue
        yield bench.measure(f"llm_weights {weights}", bench.steps, plain=latents)
    bench.free()


def diffusers_edit(bench: Bench, compiles: bool) -> Iterator[Row]:
    """Measure diffusers' pipeline, alone on the card."""
    bench.free()
    dtype = torch.float16 if bench.device.type == "cuda" else torch.float32
    pipeline = plain.build(bench.config, bench.device, dtype)
    if compiles:
        plain.compile_unet(pipeline, bench.device, bench.backend)
    name = f"{str(dtype).removeprefix('torch.')}{', UNet compiled' if compiles else ''}"
    yield {"pipeline": name, "steps": bench.steps, **plain.latency(pipeline, bench.config, bench.device, bench.steps)}


def memory(bench: Bench) -> Iterator[Row]:
    """Measure the memory of each stage without switches."""
    yield from bench.edits.memory(2)


def throughput(bench: Bench) -> Iterator[Row]:
    """Measure batches without compilation, plain and with channels last."""
    counts, large = (COUNTS[:2], COUNTS[1]) if bench.tiny else (COUNTS, LARGE)
    for row in bench.edits.throughput(bench.steps, counts):
        yield {"switches": "plain"} | row
    with bench.edits.switched(SpeedConfig(channels_last=True)):
        for row in bench.edits.throughput(bench.steps, (large,)):
            yield {"switches": "channels_last"} | row


def compiled_throughput(bench: Bench) -> Iterator[Row]:
    """Measure a batch whose UNet is compiled."""
    count = 2 if bench.tiny else LARGE
    speed = SpeedConfig(channels_last=True, compile={"unet": (BRANCHES * count,)})
    with bench.compiling(speed):
        warm_up = warmed_up(bench, count)
        for row in bench.edits.throughput(bench.steps, (count,)):
            yield {"switches": "channels_last, UNet compiled"} | row | warm_up


def training_goal(bench: Bench) -> Iterator[Row]:
    """Measure the goal's step; without ZeRO where DeepSpeed fails."""
    try:
        yield from training_step(bench, stage=3, zero=1)
        return
    except Exception as error:
        traceback.print_exc()
        failure = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    for row in training_step(bench, stage=3, zero=None):
        yield row | {"zero_1": failure}


def training_step(bench: Bench, stage: int, zero: int | None, on_ray: bool = False) -> Iterator[Row]:
    """Measure an optimizer step, alone on the card."""
    from fireedit.benchmarks.speed import training  # reads recipes, which need more packages than edits do

    bench.free()
    step = training.Step(stage, zero, bench.tiny, 2 if bench.tiny else 8)
    if on_ray:
        yield training.measure_on_ray(step, bench.device) | {"runs": "on Ray Train"}
    else:
        bench.join_group()
        yield training.measure(step, bench.device) | {"runs": "in one process"}


def drift(bench: Bench) -> Iterator[Row]:
    """Measure the pictures of nano's trained weights: random ones show nothing."""
    from fireedit.benchmarks.speed.drift import measure_drift

    bench.free()
    yield from measure_drift(bench.device, bench.dtype, of_each_family=3)


MEASURES: Mapping[str, Callable[[Bench], Iterator[Row]]] = {
    "roofline": measure_roofline,
    "diffusers": partial(diffusers_edit, compiles=False),
    "edit": plain_edit,
    "memory": memory,
    "throughput": throughput,
    "training": training_goal,
    "edit, compiled": compiled_edit,
    "edit, switches in turn": switches_in_turn,
    "edit, LLM in 8 bits": llm_weights,
    "training, stage 2": partial(training_step, stage=2, zero=1),
    "throughput, compiled": compiled_throughput,
    "edit, compiled, share_keys": compiled_share_keys,
    "training, on Ray Train": partial(training_step, stage=3, zero=1, on_ray=True),
    "diffusers, compiled": partial(diffusers_edit, compiles=True),
    "training, stage 3 under ZeRO 2": partial(training_step, stage=3, zero=2),
    "training, stage 2 under ZeRO 2": partial(training_step, stage=2, zero=2),
    "training, stage 3 without ZeRO": partial(training_step, stage=3, zero=None),
    "drift of nano's pictures": drift,
}
"""Measurement of each part."""


def measure_parts(names: list[str], device: str, precision: str, tiny: bool) -> Iterator[tuple[str, Row | None]]:
    """Measure parts in order: each gives its name and None as it begins, then its name and each row.

    Args:
        precision: word of DTYPES.
    """
    with ExitStack() as until_end:
        bench = Bench(torch.device(device), DTYPES[precision], tiny, until_end)
        for name in names:
            yield name, None
            for row in MEASURES[name](bench):
                yield name, row
