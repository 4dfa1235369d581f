"""Losses and batches of held-out evaluation."""

import torch

from fireedit.jobs.training.held_out import HELD_OUT, held_out_batches, known_cross_entropy
from fireedit.models.tokens import IGNORED


def test_cross_entropy_ignores_unknown_labels_and_is_zero_without_known_ones() -> None:
    assert known_cross_entropy(torch.zeros(2, 3), torch.tensor([IGNORED, IGNORED])) == 0
    loss = known_cross_entropy(torch.zeros(2, 3), torch.tensor([1, IGNORED]))
    torch.testing.assert_close(loss, torch.tensor(3.0).log())


def test_held_out_batches_hold_the_first_held_out_seeds() -> None:
    batches = held_out_batches(lambda seed: {"seed": torch.tensor(seed)}, 5, 2)
    assert torch.cat([batch["seed"] for batch in batches]).tolist() == list(HELD_OUT.seeds[:5])
