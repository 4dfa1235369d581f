"""Edits of FireEdit with random weights: seconds, memory and operations of each stage, with switches or without."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fireedit.benchmarks.speed.card import peak_gib, reserved_gib, restart_peak, seconds_of
from fireedit.jobs.planning.most_regions import propose_most_regions
from fireedit.models.model import FireEditConfig, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.schedule import ScheduleConfig
from fireedit.models.settings import PaintSettings
from fireedit.models.speed import SpeedConfig, accelerate
from fireedit.models.tati import TATI
from fireedit.models.unet import EditUNet, UNetConfig
from fireedit.models.vae import VAEConfig

PROMPTS = ("Replace the dog beside the red car with a much larger cat.", "Make it look like winter.")
BRANCHES = 3
PARTS = {
    "perceive": FireEditPipeline.PERCEIVING,
    "understand": FireEditPipeline.UNDERSTANDING,
    "paint": FireEditPipeline.PAINTING,
}


def sizes(tiny: bool) -> FireEditConfig:
    """Return the paper's sizes, or some that a CPU runs: nano with the paper's kind of VAE, UNet and schedule."""
    if not tiny:
        return FireEditConfig()
    blocks = (("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D"))
    unet = UNetConfig(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        layers_per_block=1,
        cross_attention_dim=96,
        norm_num_groups=8,
    )
    vae = VAEConfig(sample_size=64, block_out_channels=(16, 32, 32, 32), norm_num_groups=8)
    return replace(preset("nano"), unet=unet, vae=vae, schedule=ScheduleConfig(), painting=PaintSettings())


@lru_cache
def step_flops(config: FireEditConfig) -> float:
    """Count the operations of one guided denoising step, TATI and UNet, on tensors without values."""
    side, width = config.unet.sample_size, config.unet.cross_attention_dim
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        latents = torch.zeros(BRANCHES, config.unet.out_channels, side, side)
        tokens, detail = torch.zeros(BRANCHES, 77, width), torch.zeros(BRANCHES, config.unet.detail_tokens, width)
        TATI(config.tati)(tokens[:1], torch.zeros(1))
        EditUNet(config.unet).predict(latents, latents, torch.zeros(BRANCHES), tokens, detail)
    return counter.get_total_flops()


@dataclass
class Edits:
    """A pipeline of random weights and the edits that it is measured by."""

    pipeline: FireEditPipeline
    device: torch.device

    @classmethod
    def fresh(cls, config: FireEditConfig, device: torch.device, dtype: torch.dtype) -> "Edits":
        """Draw the weights on the device; every picture has the most regions."""
        pipeline = FireEditPipeline.fresh(config=config, dtype=dtype, device=device)
        pipeline.set_progress_bar_config(disable=True)
        propose_most_regions(pipeline.detector)
        return cls(pipeline, device)

    def edit(
        self,
        steps: int,
        count: int = 1,
        timed: Callable[[str, Callable[[], Any]], Any] | None = None,
        noise_from: str | None = None,
    ) -> Tensor:
        """Edit `count` pictures with full guidance, the same in every call.

        Args:
            timed: gets each stage's name and call, calls it and returns its result.
            noise_from: device that draws the noise; None is the pipeline's own, `cpu` makes every step wait for it.
        Returns:
            Edited latents [count, C, h, w], about unit variance.
        """
        pipeline, run = self.pipeline, timed or (lambda _, work: work())
        side = pipeline.vae.config.sample_size
        random = np.random.default_rng(0)
        canvases = [random.integers(0, 256, (side, side, 3), np.uint8) for _ in range(count)]
        prompts = [PROMPTS[number % len(PROMPTS)] for number in range(count)]
        settings = PaintSettings(num_inference_steps=steps, guidance_scale=7.5, image_guidance_scale=1.5)
        generators = [torch.Generator(noise_from or self.device).manual_seed(number) for number in range(count)]
        percepts = run("perceive", lambda: pipeline.perceive(canvases))
        tokens = run("understand", lambda: pipeline.understand(percepts, prompts))
        state = run("prepare", lambda: pipeline.prepare(canvases, percepts, tokens, settings, generators))
        edited: Tensor = run("steps", lambda: pipeline.paint(state))
        run("decode", lambda: pipeline.decode(edited))
        return edited

    def latency(
        self, steps: int, repeats: int = 2, noise_from: str | None = None, plain: Tensor | None = None
    ) -> dict[str, float]:
        """Measure an edit: seconds of each stage, milliseconds of a step; an edit of few steps has warmed up.

        Args:
            plain: latents of the same edit without switches; their mean absolute difference, in their standard
                deviations, is measured too.
        """
        self.edit(min(steps, 2), noise_from=noise_from)
        rounds = list[dict[str, float]]()

        def timed(stage: str, work: Callable[[], Any]) -> Any:
            result = list[Any]()
            rounds[-1][f"{stage}_s"] = seconds_of(lambda: result.append(work()), self.device)
            return result[0]

        for _ in range(repeats):
            rounds.append({})
            edited = self.edit(steps, timed=timed, noise_from=noise_from)
        best = min(rounds, key=lambda each: sum(each.values()))
        row = best | {"edit_s": sum(best.values()), "step_ms": 1000 * best["steps_s"] / steps}
        return row if plain is None else row | {"latents_apart": float((edited - plain).abs().mean() / plain.std())}

    def throughput(self, steps: int, counts: Sequence[int]) -> Iterator[dict[str, float | None]]:
        """Measure edits a second of batches of several sizes, each after an edit of two steps."""
        for count in counts:
            self.edit(2, count)
            restart_peak(self.device)
            seconds = seconds_of(partial(self.edit, steps, count), self.device)
            yield {
                "pictures": count,
                "batch_s": seconds,
                "edits_per_s": count / seconds,
                "peak_gib": peak_gib(self.device),
                "reserved_gib": reserved_gib(self.device),
            }

    def memory(self, steps: int) -> Iterator[dict[str, Any]]:
        """Measure GiB: weights of each stage, and the most that the stage alone needs on a card; then the whole."""
        held = {stage: self._weights_gib(names) for stage, names in PARTS.items()}
        extra, stage_of = dict.fromkeys(PARTS, 0.0), {"perceive": "perceive", "understand": "understand"}

        def timed(stage: str, work: Callable[[], Any]) -> Any:
            restart_peak(self.device)
            before = _allocated_gib(self.device)
            result = work()
            name = stage_of.get(stage, "paint")
            extra[name] = max(extra[name], (peak_gib(self.device) or 0.0) - before)
            return result

        self.edit(steps, timed=timed)
        on_card = self.device.type == "cuda"
        for stage, weights in held.items():
            yield {"stage": stage, "weights_gib": weights, "peak_gib": weights + extra[stage] if on_card else None}
        restart_peak(self.device)
        self.edit(steps)
        peaks = {"peak_gib": peak_gib(self.device), "reserved_gib": reserved_gib(self.device)}
        yield {"stage": "whole", "weights_gib": sum(held.values()), **peaks}

    @contextmanager
    def switched(self, speed: SpeedConfig) -> Iterator[None]:
        """Apply switches for the block."""
        accelerate(self.pipeline, speed)
        try:
            yield
        finally:
            accelerate(self.pipeline, SpeedConfig())

    def _weights_gib(self, names: Sequence[str]) -> float:
        parts = [part for name in names if isinstance(part := getattr(self.pipeline, name), torch.nn.Module)]
        return sum(each.nbytes for part in parts for each in [*part.parameters(), *part.buffers()]) / 2**30


def _allocated_gib(device: torch.device) -> float:
    return torch.cuda.memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
