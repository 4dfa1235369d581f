"""Tiny detectors of random weights in the layout that others publish: for tests, and where no others are there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
    SamConfig,
    SamImageProcessorPil,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

SAM_SIDE, RT_DETR_SIDE = 64, 96
"""Sides of the pictures that the two read, pixels."""
RT_DETR_QUERIES = 12
HIGHEST = 100.0
"""Highest logit of a mask before all are lowered by half of it; those within 1 of an edge then are few."""


def save_tiny_sam(folder: Path) -> Path:
    """Save a SAM with the published generator's settings of the picture; returns the folder."""
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=16,
            output_channels=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SAM_SIDE,
            patch_size=8,
            mlp_dim=32,
            window_size=4,
            global_attn_indexes=[1],
            num_pos_feats=8,
        ).to_dict(),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=16, image_size=SAM_SIDE, patch_size=8, mask_input_channels=4
        ).to_dict(),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16
        ).to_dict(),
    )
    model = _shaken(lambda: SamModel(config))
    _give_edges(model)
    size = {"height": SAM_SIDE, "width": SAM_SIDE}
    return _save(model, SamImageProcessorPil(size={"longest_edge": SAM_SIDE}, pad_size=size), folder)


def save_tiny_rt_detr(folder: Path, classes: int = 3) -> Path:
    """Save an RT-DETR with its ResNet backbone; returns the folder."""
    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=RT_DETR_QUERIES,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_labels=classes,
    )
    model = _shaken(lambda: RTDetrForObjectDetection(config))
    return _save(model, RTDetrImageProcessorPil(size={"height": RT_DETR_SIDE, "width": RT_DETR_SIDE}), folder)


@torch.no_grad()
def _give_edges(model: SamModel) -> None:
    """Let masks of all sizes appear, some of them empty, with predicted IoUs around 1/2.

    A mask is the product of few channels; here the first is a constant, which lowers all logits.
    """
    decoder, generator = model.mask_decoder, torch.Generator().manual_seed(0)
    decoder.iou_prediction_head.proj_out.bias += 0.5
    for part in (decoder.transformer, decoder.upscale_conv1, decoder.upscale_conv2, decoder.output_hypernetworks_mlps):
        for parameter in part.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    decoder.upscale_conv2.weight[:, 0], decoder.upscale_conv2.bias[0] = 0, 1
    for mlp in decoder.output_hypernetworks_mlps:
        mlp.proj_out.weight[0], mlp.proj_out.bias[0] = 0, 0
    pixels = torch.rand(1, 3, SAM_SIDE, SAM_SIDE, generator=generator)
    points = SAM_SIDE * torch.rand(1, 16, 1, 2, generator=generator)
    masks = model(pixels, points, multimask_output=True).pred_masks[0]
    for index, mlp in enumerate(decoder.output_hypernetworks_mlps[1:]):
        scale = HIGHEST / masks[:, index].max()
        mlp.proj_out.weight[1:] *= scale
        mlp.proj_out.bias[1:] *= scale
        mlp.proj_out.bias[0] = -HIGHEST / 2 / 0.8413  # the constant channel is the GELU of 1


def _shaken(build: Callable[[], Any]) -> Any:
    """Build a model whose weights are all random, those that begin at 0 too; equal at each call."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = build().eval()
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def _save(model: Any, processor: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
