"""TATI starts as a no-op and depends on the timestep once trained, fractional ones included."""

import pytest
import torch
from torch import Tensor

from fireedit.models.model import preset
from fireedit.models.tati import TATI, AdaptiveLayerNorm
from tests.factories import shaken


@pytest.fixture
def edit_tokens() -> Tensor:
    return torch.randn(2, 77, 96, generator=torch.Generator().manual_seed(0))


def fresh() -> TATI:
    torch.manual_seed(1)
    return TATI(preset("nano").tati).eval()


def test_it_starts_as_a_no_op_at_every_timestep(edit_tokens: Tensor) -> None:
    tati = fresh()
    for timesteps in (torch.tensor([0, 999]), torch.tensor([12.25, 500.5])):
        assert torch.equal(tati(edit_tokens, timesteps), edit_tokens)


def test_once_trained_it_depends_on_fractional_timesteps(edit_tokens: Tensor) -> None:
    tati = shaken(fresh())
    at = {t: tati(edit_tokens, torch.full((2,), t)) for t in (500.0, 500.5, 501.0)}
    half, whole = (at[500.5] - at[500.0]).abs().max(), (at[501.0] - at[500.0]).abs().max()
    assert 1e-5 < half < whole
    assert torch.equal(tati(edit_tokens, torch.tensor([500, 500])), at[500.0])


def test_each_row_has_its_own_timestep(edit_tokens: Tensor) -> None:
    tati = shaken(fresh())
    both = tati(edit_tokens, torch.tensor([3.0, 700.0]))
    for row, timestep in enumerate([3.0, 700.0]):
        alone = tati(edit_tokens[row : row + 1], torch.tensor([timestep]))
        assert torch.allclose(both[row : row + 1], alone, atol=1e-5)


def test_the_adaptive_norm_starts_as_a_plain_one() -> None:
    norm, x = AdaptiveLayerNorm(8, 4), torch.randn(2, 3, 8)
    assert torch.equal(norm(x, torch.randn(2, 4)), torch.nn.functional.layer_norm(x, (8,), eps=1e-6))


def test_it_works_in_bfloat16(edit_tokens: Tensor) -> None:
    tati = shaken(fresh()).bfloat16()
    timed = tati(edit_tokens.bfloat16(), torch.tensor([10.5, 900.0]))
    assert timed.dtype == torch.bfloat16 and timed.isfinite().all()
