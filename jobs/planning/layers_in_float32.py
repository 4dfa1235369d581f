"""Computation in float32 with weights kept in bfloat16, for a CPU without instructions for bfloat16.

diffusers' layerwise casting is no substitute: it converts single linear layers and convolutions, and fails where code
reads the precision of one before that runs.
"""

from typing import Any

import torch
from torch import nn

LARGE = 2**30
"""Parameters from which a component's layers are converted one at a time, each while it runs."""


def compute_in_float32(module: nn.Module) -> None:
    """Convert a component to float32; in a large one the lists of layers stay as they are, and convert while they run.

    A layer's weights survive it unchanged: float32 holds every bfloat16 number.
    """
    large = sum(parameter.numel() for parameter in module.parameters()) >= LARGE
    lists = [child for child in module.modules() if isinstance(child, nn.ModuleList)] if large else []
    layers = [layer for each in lists for layer in each if next(layer.parameters(), None) is not None]
    kept = {id(parameter) for layer in layers for parameter in layer.parameters()}
    for parameter in module.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.float()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.float()
    for layer in layers:
        dtype = next(layer.parameters()).dtype
        layer.register_forward_pre_hook(_to_float32)
        layer.register_forward_hook(_Back(dtype))


def _to_float32(layer: nn.Module, inputs: Any) -> None:
    layer.float()


class _Back:
    """Hook that converts a layer back after it ran."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def __call__(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        layer.to(self.dtype)
