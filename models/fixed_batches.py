"""Batches of fixed sizes for a compiled part: smaller batches are padded, so that no new size is compiled."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

RECOMPILE_LIMIT = 256
"""Graphs of one code object. The parts share that of `nn.Module`'s call, and have one graph for each size and kind of
step; torch's limit is 8, beyond which a full graph is an error."""


class FixedBatches:
    """Call of a compiled module whose tensors, but for numbers, all have the batch as their first dimension.

    Padding repeats the last sample, whose results are dropped. Results are copies: a CUDA graph writes the next ones
    into the same memory.

    Args:
        compiled: compiled call.
        plain: the same, not compiled, for batches larger than all sizes.
        sizes: batches that are compiled, at their first call.
        layout: memory format of 4-dimensional tensors; others are contiguous. torch compiles again for other strides.
    """

    def __init__(
        self,
        compiled: Callable[..., Any],
        plain: Callable[..., Any],
        sizes: Sequence[int],
        layout: torch.memory_format = torch.contiguous_format,
    ):
        self.compiled, self.plain, self.sizes, self.layout = compiled, plain, sorted(sizes), layout
        # Settings of torch._dynamo belong to a thread: the one that calls, which compiles.
        self._limit = torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        count = len(tensors[0])
        size = next((size for size in self.sizes if size >= count), None)
        if size is None:
            return self.plain(*args, **kwargs)
        padded_args, padded_kwargs = tree_map(lambda leaf: self._padded(leaf, size), (args, kwargs))
        if tensors[0].is_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        with self._limit:
            output = self.compiled(*padded_args, **padded_kwargs)
        return tree_map(lambda leaf: leaf[:count].clone() if isinstance(leaf, Tensor) else leaf, output)

    def _padded(self, leaf: Any, size: int) -> Any:
        """Repeat the last sample of a tensor up to `size` samples; its strides are the same whatever their number.

        A number, and what is no tensor, stays.
        """
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            return leaf
        layout = self.layout if leaf.ndim == 4 else torch.contiguous_format
        padded = torch.empty((size, *leaf.shape[1:]), dtype=leaf.dtype, device=leaf.device, memory_format=layout)
        if leaf.shape == padded.shape and leaf.stride() == padded.stride():
            return leaf
        padded[: len(leaf)] = leaf
        padded[len(leaf) :] = leaf[-1:]
        return padded
