"""Meter of a computation on fake tensors: FLOPs of each part of a model, and bytes that are alive after each operation.

Fake tensors have shapes and no values, so a step of the paper's model takes seconds on a CPU. They act as a CPU's: its
attention keeps as little for the backward pass as a GPU's, but for a few numbers a row.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
Phase = Literal["forward", "backward"]
REST = "rest"
"""Part of the operations outside all parts: losses, noise, token positions."""
MOST_REAL = 1 << 20
"""Elements of the largest tensor without inputs that is computed with its values."""


class LiveBytes:
    """Bytes of a computation on a batch of `samples`: those that any batch takes, and those that grow with it.

    Args:
        samples: prime that divides no size of the model, so that storages whose elements it divides grow.
    """

    def __init__(self, samples: int):
        self.samples, self.fixed, self.growing = samples, 0, 0

    def add(self, elements: int, item_bytes: int, sign: int = 1) -> None:
        if elements % self.samples:
            self.fixed += sign * elements * item_bytes
        else:
            self.growing += sign * elements * item_bytes

    def of(self, samples: int) -> float:
        """Bytes on a batch of another size."""
        return self.fixed + self.growing * samples / self.samples


class Meter(TorchDispatchMode):
    """Counts the FLOPs and the live bytes of all operations while it is entered.

    Operations on real tensors alone are computed: token ids, masks and boxes keep their values, on which a forward pass
    branches. An operation on both takes the real ones as fake.

    Args:
        samples: see `LiveBytes`.
    """

    def __init__(self, samples: int):
        super().__init__()
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.live, self.saved, self.logits = LiveBytes(samples), LiveBytes(samples), LiveBytes(samples)
        self.history = list[tuple[int, int]]()
        """Live bytes after each operation: fixed, growing."""
        self.flops: Counter[tuple[Phase, str]] = Counter()
        self.phase: Phase = "forward"
        self._parts = [REST]
        self._ignored, self._watched, self._kept = set[int](), set[int](), set[int]()

    def ignore(self, tensors: Sequence[Tensor]) -> None:
        """Leave the storages of tensors out of all counts: weights, and the batch."""
        self._ignored |= {id(tensor.untyped_storage()) for tensor in tensors}

    def __enter__(self) -> "Meter":
        self.fake_mode.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.fake_mode.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # two thirds of all calls
        kwargs = kwargs or {}
        output = self._run(func, args, kwargs)
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, Tensor):
                self._watch(tensor)
        self.history.append((self.live.fixed, self.live.growing))
        if count := FLOPS.get(func.overloadpacket):
            self.flops[self.phase, self._parts[-1]] += count(*args, **kwargs, out_val=output)
        return output

    def follow(self, part: str, modules: Sequence[nn.Module]) -> None:
        """Attribute the forward passes of modules to a part; their backward passes follow from `saving`."""
        for module in modules:
            module.register_forward_pre_hook(lambda *_: self._parts.append(part))
            module.register_forward_hook(lambda *_: self._parts.pop() and None, always_call=True)

    @contextmanager
    def saving(self, vocabulary: int) -> Iterator[None]:
        """Count the tensors that autograd saves, and attribute their backward pass to the part that saves them.

        Args:
            vocabulary: least last dimension of tensors that count as logits.
        """

        def pack(tensor: Tensor) -> tuple[str, Tensor]:
            storage = tensor.untyped_storage()
            if (key := id(storage)) not in self._ignored and key not in self._kept:
                self._kept.add(key)
                counted = self.logits if tensor.shape[-1:] >= (vocabulary,) else self.saved
                counted.add(storage.nbytes() // tensor.element_size(), tensor.element_size())
            return self._parts[-1], tensor

        def unpack(packed: tuple[str, Tensor]) -> Tensor:
            self._parts[-1], tensor = packed
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return func(*_without_masks(func, args), **kwargs)
        if not tensors:
            made = func(*args, **kwargs)
            if isinstance(made, Tensor) and made.numel() > MOST_REAL:
                return made
        with unset_fake_temporarily():
            return func(*args, **kwargs)

    def _watch(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        if (key := id(storage)) in self._ignored or key in self._watched:
            return
        size = storage.nbytes() // tensor.element_size(), tensor.element_size()
        self._watched.add(key)
        self.live.add(*size)

        def free() -> None:
            self._watched.discard(key)
            self.live.add(*size, sign=-1)

        weakref.finalize(storage, free).atexit = False


def _without_masks(func: Any, args: Sequence[Any]) -> Sequence[Any]:
    """Replace real masks among the indices of an operation by the positions that they select."""
    if func.overloadpacket not in (aten.index, aten.index_put, aten.index_put_):
        return args
    indices = list[Any]()
    for index in args[1]:
        is_mask = index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        with unset_fake_temporarily():
            indices += index.nonzero().unbind(1) if is_mask else [index]
    return [args[0], indices, *args[2:]]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Formulas of torch's counter, which lacks a CPU's attention. A multiplication with its addition is 2 FLOPs; causal
attention counts whole."""
