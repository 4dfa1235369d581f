"""Small real inputs that several tests build on: pictures, samples of each task, batches."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fireedit.jobs.training.loading import load_pipeline
from fireedit.jobs.training.recipe import TrainRecipe
from fireedit.models.detector import DetectorConfig
from fireedit.models.hvca import HVCAConfig
from fireedit.models.model import FireEditConfig, preset
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.processor import Batch, Processor
from fireedit.models.qformer import QFormerConfig
from fireedit.models.region_encoder import RegionEncoderConfig
from fireedit.models.tati import TATIConfig
from fireedit.models.text import TextConfig
from fireedit.models.unet import UNetConfig
from fireedit.models.vae import VAEConfig
from fireedit.models.vision import VisionConfig, VisionFeatures, merge_patches
from fireedit.models.vlm import VLMConfig
from fireedit.platform import config, storage
from fireedit.platform.data.ingest import stacked
from fireedit.platform.train.checkpoints import AVERAGES, WEIGHTS, CheckpointState, Fragment, Snapshot, path_of
from fireedit.platform.train.optimizer import named_trained
from fireedit.platform.train.runs import Run

PAPERLIKE_UNET = UNetConfig(
    sample_size=8,
    block_out_channels=(64, 128),
    down_block_types=("CrossAttnDownBlock2D",) * 2,
    up_block_types=("CrossAttnUpBlock2D",) * 2,
    layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=96,
    norm_num_groups=8,
)
"""Sizes of the paper's UNet with fewer and narrower blocks and nano's condition width."""

PAPERLIKE = FireEditConfig(
    vision=VisionConfig(
        image_size=112,
        detail_size=56,
        dino_width=64,
        dino_layers=4,
        dino_heads=4,
        clip_width=64,
        clip_mlp_width=128,
        clip_layers=2,
        clip_heads=4,
    ),
    detector=DetectorConfig(
        feature_width=64, width=64, encoder_layers=1, decoder_layers=1, heads=4, ffn_width=64, queries=20
    ),
    region_encoder=RegionEncoderConfig(
        width=64, width_out=128, fuse_blocks=1, groups=8, roi_size=4, token_width=64, box_width=32
    ),
    vlm=VLMConfig(width=128, layers=2, heads=4, mlp_width=256, image_width=256),
    qformer=QFormerConfig(width=64, layers=2, heads=4, mlp_width=128, input_width=128),
    tati=TATIConfig(width=64, heads=4, time_channels=32, time_width=64),
    hvca=HVCAConfig(source_widths=(64,) * 4, width=64, heads=4, text_width=64, output_width=64),
    unet=UNetConfig(sample_size=8, block_out_channels=(32, 64, 64, 64), cross_attention_dim=64, norm_num_groups=8),
    vae=VAEConfig(sample_size=64, block_out_channels=(16, 32, 32, 32), norm_num_groups=8),
    text=TextConfig(width=64, mlp_width=128, layers=2, heads=4),
)
"""Sizes of the paper's model with fewer and narrower layers; vocabularies are the paper's."""


def picture(seed: int, width: int = 80, height: int = 60) -> np.ndarray:
    """A smooth random picture, uint8 RGB [height, width, 3]."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    return (smooth.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def edit_sample(seed: int, instruction: str = "make the red circle blue") -> dict[str, Any]:
    pictures = {"source": picture(seed), "target": picture(seed + 1)}
    return _sample("edit", seed, instruction=instruction, **pictures)


def caption_sample(seed: int, caption: str = "a red circle on a table") -> dict[str, Any]:
    return _sample("caption", seed, instruction=caption)


def vqa_sample(seed: int) -> dict[str, Any]:
    dialogue = {"questions": ["What is on the table?", "Is it red?"], "answers": ["A circle.", "Yes."]}
    return _sample("vqa", seed, source=picture(seed), **dialogue)


def processor_of(pipeline: FireEditPipeline) -> Processor:
    return Processor(pipeline.vlm_tokenizer, pipeline.tokenizer, preset("nano"))


def batch_of(pipeline: FireEditPipeline, *samples: Mapping[str, Any]) -> Batch:
    processor = processor_of(pipeline)
    return processor.batch(stacked([processor.row(sample) for sample in samples]))


def features_of(*maps: torch.Tensor) -> VisionFeatures:
    """Vision features with the given maps [B, W, h, w]."""
    return VisionFeatures(image_tokens=merge_patches(maps[-1]), maps=maps, detail=())


def shaken(module: nn.Module, seed: int = 0, scale: float = 0.05) -> nn.Module:
    """Add noise to every weight of the module, so that none is zero by initialization."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module


def files_of(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Name the safetensors file that each tensor's memory is mapped from; empty for memory of the process."""
    mapped = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(".safetensors"):
            addresses, *_, path = line.split(maxsplit=5)
            first, last = (int(address, 16) for address in addresses.split("-"))
            mapped.append((range(first, last), path))
    return {
        name: next((path for addresses, path in mapped if tensor.data_ptr() in addresses), "")
        for name, tensor in state.items()
    }


def write_checkpoint(recipe: TrainRecipe, run: Run, step: int) -> dict[str, torch.Tensor]:
    """Write a run's recipe and a checkpoint with shaken weights and, if the recipe has any, averages twice as far away.

    Returns:
        Trained weights by name, as the checkpoint has them.
    """
    storage.write_bytes(run.recipe, config.dump(recipe).encode())
    module = recipe.staged(load_pipeline(recipe, recipe.init_from))
    fragments, trained = [], {}
    for number, (name, parameter) in enumerate(named_trained(module)):
        generator = torch.Generator().manual_seed(number)
        step_away = 0.01 * torch.randn(parameter.shape, generator=generator)
        kinds = {WEIGHTS: parameter.detach() + step_away}
        kinds |= {AVERAGES: parameter.detach() + 2 * step_away} if recipe.ema else {}
        fragments.append(Fragment(name, 0, {kind: values.flatten() for kind, values in kinds.items()}))
        trained[name] = kinds[WEIGHTS]
    snapshot, shapes = Snapshot(), {name: list(values.shape) for name, values in trained.items()}
    snapshot.take(fragments)
    snapshot.write(path_of(run.folder, step), CheckpointState(step, 1, "a", shapes), rank=0)
    return trained


def spawn(work: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Run `work(rank, *arguments)` in `count` processes; they have a thread each, as more get in each other's way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.multiprocessing.spawn(work, arguments, nprocs=count)


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def diffusers_sizes(config: UNetConfig) -> dict[str, Any]:
    """Convert the sizes to arguments of diffusers' own UNet."""
    ours = ("reads_last_token", "adds_source", "detail_tokens", "detail_scale")
    sizes = {name: value for name, value in vars(config).items() if name not in ours}
    if config.reads_last_token:
        sizes |= {
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": config.cross_attention_dim,
        }
    return sizes


def _sample(task: str, seed: int, **fields: Any) -> dict[str, Any]:
    empty = {"instruction": "", "questions": [], "answers": [], "source": None, "target": None}
    return {"id": f"test/{task}/{seed}", "corpus": "test", "task": task, **empty, **fields}


def read_ledger(folder: str) -> list[list[str]]:
    """Read the ids of every batch of a run in the order of the batches' numbers; a gap or a contradiction fails."""
    batches: dict[int, list[str]] = {}
    for path in sorted(Path(folder).glob("[0-9]*.jsonl")):
        for entry in map(json.loads, path.read_text().splitlines()):
            assert batches.setdefault(entry["batch"], entry["ids"]) == entry["ids"], f"two batches {entry['batch']}"
    assert sorted(batches) == list(range(len(batches)))
    return [batches[number] for number in range(len(batches))]
