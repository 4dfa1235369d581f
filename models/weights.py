"""Published weights under our modules' names: one function for each published part, from state dict to state dict."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class WeightsError(Exception):
    """The tensors of a file do not fit the module that should take them."""


def groma_detector(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The Detector's tensors out of `FoundationVision/groma-det-pretrain` or any `FoundationVision/groma-7b-*`.

    Both hold DINOv2 too, and the 7b files the rest of Groma; that is left out. Groma's decoder names the heads a second
    time (`decoder.bbox_embed` is `bbox_embed`); whichever of the two names a file kept will do. transformers has since
    renamed parts of the layers.
    """
    tensors = {}
    for name, tensor in state.items():
        name = name.removeprefix("perceiver.")
        if name.startswith("input_proj."):
            tensors[name] = tensor
        elif name.startswith("ddetr_transformer."):
            name = name.removeprefix("ddetr_transformer.")
            name = re.sub(r"^decoder\.(bbox_embed|class_embed)", r"\1", name)
            name = re.sub(r"\.layers\.(\d+)\.(fc[12])\.", r".layers.\1.mlp.\2.", name)
            tensors[name.replace(".self_attn.out_proj.", ".self_attn.o_proj.")] = tensor
    return tensors


def groma_region_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The RegionEncoder's tensors out of any `FoundationVision/groma-7b-*`; it needs `groma_compat=True`."""
    return _below("region_encoder.", state)


def load_strict(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put `state` into `module`: every tensor that it has, no other.

    A module made on the meta device takes the tensors themselves, others copy them.

    Args:
        source: what the tensors should come from, for the error.
    Raises:
        WeightsError: tensors are missing, unexpected or of another shape.
    """
    wanted = module.state_dict()
    shared = [name for name in wanted if name in state]
    problems = {
        "missing": [f"{name} {list(wanted[name].shape)}" for name in wanted if name not in state],
        "unexpected": [f"{name} {list(state[name].shape)}" for name in state if name not in wanted],
        "of another shape": [
            f"{name} {list(state[name].shape)} where {list(wanted[name].shape)} belongs"
            for name in shared
            if state[name].shape != wanted[name].shape
        ],
    }
    if any(problems.values()):
        lines = [f"  {len(found)} {kind}: {_few(found)}" for kind, found in problems.items() if found]
        raise WeightsError(
            f"{type(module).__name__}: {len(shared)} of its {len(wanted)} tensors are there\n"
            + "\n".join(lines)
            + f"\n  give it the tensors of {source}"
        )
    module.load_state_dict(dict(state), assign=any(tensor.is_meta for tensor in wanted.values()))


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _few(entries: Sequence[str], most: int = 4) -> str:
    """The first few entries as one line."""
    return ", ".join(entries[:most]) + (", ..." if len(entries) > most else "")
