"""Meter of computations on fake tensors."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireedit.jobs.planning.meter import LiveBytes, Meter

SAMPLES, WIDTH = 7, 64


class Branching(nn.Module):
    """Two layers, of which the values of a mask decide whether the second one runs, and on which samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.second(x[mask]).sum() if mask.any() else x.sum()


def metered(mask: Tensor) -> Meter:
    """Measure a forward and backward pass."""
    meter = Meter(SAMPLES)
    with meter.fake_mode:
        module, x = Branching(), torch.empty(SAMPLES, WIDTH)
    meter.follow("first", (module.first,))
    meter.follow("second", (module.second,))
    meter.ignore([*module.parameters(), x])
    with meter:
        with meter.saving(vocabulary=10**6):
            total = module(x, mask)
        meter.phase = "backward"
        total.backward()
    return meter


def test_bytes_grow_with_the_batch_where_its_size_divides_their_elements() -> None:
    live = LiveBytes(7)
    live.add(7 * 3, item_bytes=4)
    live.add(10, item_bytes=4)
    assert live.of(7) == (21 + 10) * 4 and live.of(14) == (42 + 10) * 4
    live.add(10, item_bytes=4, sign=-1)
    assert live.of(0) == 0


def test_flops_belong_to_the_part_that_computes_them() -> None:
    flops = metered(torch.ones(SAMPLES, dtype=torch.bool)).flops
    product = 2 * SAMPLES * WIDTH * WIDTH
    assert flops["forward", "first"] == flops["forward", "second"] == product
    assert flops["backward", "first"] == product  # its input needs no gradient
    assert flops["backward", "second"] == 2 * product


def test_masks_keep_their_values_on_which_a_forward_pass_branches() -> None:
    none = metered(torch.zeros(SAMPLES, dtype=torch.bool))
    assert none.flops["forward", "second"] == 0
    two = metered(torch.arange(SAMPLES) < 2)
    assert two.flops["forward", "second"] == 2 * 2 * WIDTH * WIDTH


def test_saved_tensors_are_counted_once_and_weights_not() -> None:
    meter = metered(torch.zeros(SAMPLES, dtype=torch.bool))
    assert meter.saved.of(1) == WIDTH * 4  # what relu keeps


def test_all_is_freed_but_the_gradients() -> None:
    meter = metered(torch.ones(SAMPLES, dtype=torch.bool))
    fixed, growing = map(max, zip(*meter.history, strict=True))
    assert growing >= 3 * SAMPLES * WIDTH * 4
    assert meter.live.growing == 0
    assert fixed >= 2 * (WIDTH * WIDTH + WIDTH) * 4


def test_attention_of_a_cpu_is_counted() -> None:
    meter = Meter(SAMPLES)
    with meter.fake_mode:
        query = torch.empty(2, 4, 16, 8, requires_grad=True)
    with meter:
        F.scaled_dot_product_attention(query, query, query).sum().backward()
    product = 2 * 2 * 4 * 16 * 16 * 8
    assert meter.flops["forward", "rest"] == (2 + 5) * product  # a backward pass computes the first product again
