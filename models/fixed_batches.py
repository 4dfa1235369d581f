"""Batches of fixed sizes for a compiled part: smaller batches are padded, so that no new size is compiled."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


class FixedBatches:
    """Call of a compiled module whose tensors, but for numbers, all have the batch as their first dimension.

    Padding repeats the last sample, whose results are dropped. Results are copies: a CUDA graph writes the next ones
    into the same memory.

    Args:
        compiled: compiled call.
        plain: the same, not compiled, for batches larger than all sizes.
        sizes: batches that are compiled, at their first call.
    """

    def __init__(self, compiled: Callable[..., Any], plain: Callable[..., Any], sizes: Sequence[int]):
        self.compiled, self.plain, self.sizes = compiled, plain, sorted(sizes)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        count = len(tensors[0])
        size = next((size for size in self.sizes if size >= count), None)
        if size is None:
            return self.plain(*args, **kwargs)
        padded_args, padded_kwargs = tree_map(lambda leaf: _padded(leaf, size), (args, kwargs))
        if tensors[0].is_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        output = self.compiled(*padded_args, **padded_kwargs)
        return tree_map(lambda leaf: leaf[:count].clone() if isinstance(leaf, Tensor) else leaf, output)


def _padded(leaf: Any, size: int) -> Any:
    """Repeat the last sample of a tensor up to `size` samples; a number, and what is no tensor, stays."""
    if not isinstance(leaf, Tensor) or leaf.ndim == 0 or len(leaf) == size:
        return leaf
    return torch.cat([leaf, leaf[-1:].expand(size - len(leaf), *leaf.shape[1:])])
