"""Plain server to compare with: diffusers' own InstructPix2Pix pipeline behind FastAPI, one edit at a time.

Its UNet has 8 channels, random weights and the blocks of nano's, so that a step costs about the same FLOPs.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import argparse
import asyncio
import base64
import contextlib
import io
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import psutil
import torch
import uvicorn
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from fastapi import FastAPI, File, Form
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from fireedit.benchmarks.measuring import cpu_seconds, cpu_since, family
from fireedit.benchmarks.serving.client import EDITS, get
from fireedit.benchmarks.serving.edits import Edit, Threads, load_nano
from fireedit.platform.cluster import HOST, free_port
from fireedit.platform.processes import in_new_process

READY_WITHIN_S = 60
BLOCKS = (
    "sample_size",
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "layers_per_block",
    "attention_head_dim",
    "cross_attention_dim",
    "norm_num_groups",
)
"""Sizes that the UNet has in common with nano's."""


@dataclass(frozen=True)
class PlainServer:
    """Running plain server."""

    url: str
    processes: Callable[[], list[psutil.Process]]


@contextlib.asynccontextmanager
async def plain_server(threads: int) -> AsyncIterator[PlainServer]:
    """Run the plain server in a process of its own."""
    port = free_port(8600)
    command = [sys.executable, __file__, "--port", str(port), "--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        server = PlainServer(f"http://{HOST}:{port}", lambda: [psutil.Process(process.pid)])
        deadline = time.monotonic() + READY_WITHIN_S
        while (await get(server.url, "/health")).status != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} does not answer")
            await asyncio.sleep(0.5)
        yield server
    finally:
        process.terminate()
        process.wait()


def time_in_process(edits: Sequence[Edit], threads: Threads) -> tuple[float, float]:
    """Measure seconds and CPU seconds per edit of the bare pipeline in a new process, one edit at a time."""
    return in_new_process(_time_all, edits, threads.unet)


def flops_ratio() -> float:
    """Divide the FLOPs of one step of the plain UNet by those of nano's, for one branch."""
    return in_new_process(_flops_ratio)


def build_pipeline() -> StableDiffusionInstructPix2PixPipeline:
    """Build diffusers' pipeline of random weights around nano's text encoder."""
    torch.manual_seed(0)
    nano = load_nano(["text_encoder", "tokenizer", "unet"])
    blocks = {name: nano.unet.config[name] for name in BLOCKS}
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=AutoencoderKL(  # as cheap as nano's codec, at the same size of the latents
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(4, 4, 4),
            layers_per_block=1,
            norm_num_groups=4,
        ),
        text_encoder=nano.text_encoder,
        tokenizer=nano.tokenizer,
        unet=UNet2DConditionModel(in_channels=8, out_channels=4, **blocks),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_app() -> FastAPI:
    """Build the app that a person would write first: a lock around the pipeline, in FastAPI's thread pool."""
    app, pipeline, one_at_a_time = FastAPI(), build_pipeline(), threading.Lock()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post(EDITS)
    def edit(
        image: Annotated[bytes, File()],
        prompt: Annotated[str, Form()],
        seed: Annotated[int, Form()],
        num_inference_steps: Annotated[int, Form()],
        guidance_scale: Annotated[float, Form()] = 7.5,
        image_guidance_scale: Annotated[float, Form()] = 1.5,
    ) -> dict[str, list[dict[str, str]]]:
        with one_at_a_time:
            picture = _paint(pipeline, image, prompt, seed, num_inference_steps, guidance_scale, image_guidance_scale)
        file = io.BytesIO()
        picture.save(file, "PNG")
        return {"data": [{"b64_json": base64.b64encode(file.getvalue()).decode()}]}

    return app


def _paint(
    pipeline: StableDiffusionInstructPix2PixPipeline,
    file: bytes,
    prompt: str,
    seed: int,
    steps: int,
    guidance_scale: float,
    image_guidance_scale: float,
) -> Image.Image:
    side = 4 * pipeline.unet.config.sample_size
    return pipeline(
        prompt,
        Image.open(io.BytesIO(file)).convert("RGB").resize((side, side)),
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        image_guidance_scale=image_guidance_scale,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]


def _time_all(edits: Sequence[Edit], threads: int) -> tuple[float, float]:
    torch.set_num_threads(threads)
    pipeline = build_pipeline()

    def paint(edit: Edit) -> None:
        settings = dict(edit.settings)
        scales = (float(settings["guidance_scale"]), float(settings["image_guidance_scale"]))
        _paint(pipeline, edit.file, edit.instruction, edit.seed, int(settings["num_inference_steps"]), *scales)

    paint(edits[0])
    began, before = time.monotonic(), cpu_seconds(family())
    for edit in edits:
        paint(edit)
    return (time.monotonic() - began) / len(edits), cpu_since(before, family()) / len(edits)


def _flops_ratio() -> float:
    """Count with gradients on, where nano's layers are the usual ones that the counter knows."""
    nano = load_nano(["unet"]).unet
    config, side = nano.config, nano.config.sample_size
    cells = torch.zeros(1, config.out_channels, side, side)
    tokens, detail = torch.zeros(1, 77, config.cross_attention_dim), torch.zeros(1, 16, config.cross_attention_dim)
    with FlopCounterMode(display=False) as ours:
        nano.predict(cells, cells, torch.tensor(500), tokens, detail)
    with FlopCounterMode(display=False) as plain:
        build_pipeline().unet(torch.zeros(1, 8, side, side), 500, tokens)
    return plain.get_total_flops() / ours.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True, help="of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    uvicorn.run(build_app(), host=HOST, port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
