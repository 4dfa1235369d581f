"""A sample's random numbers are those of its seed, whatever else is in its batch."""

import torch

from fireedit.models.draws import Draws, sample_seeds

SHAPE = (4, 8, 8)


def test_a_sample_has_the_same_draws_in_any_batch() -> None:
    together = Draws.of_seeds(torch.tensor([5, 6, 7]), SHAPE)
    for place, seed in enumerate((5, 6, 7)):
        alone = Draws.of_seeds(torch.tensor([seed]), SHAPE)
        for name, drawn in vars(together).items():
            assert torch.equal(drawn[place : place + 1], getattr(alone, name))
    assert not torch.equal(together.noise[0], together.noise[1])


def test_noise_is_standard_normal_and_the_rest_uniform() -> None:
    draws = Draws.of_seeds(torch.arange(400), SHAPE)
    for normal in (draws.noise, draws.target_noise):
        assert normal.dtype == torch.float32 and normal.shape == (400, *SHAPE)
        assert abs(normal.mean()) < 0.02 and abs(normal.std() - 1) < 0.02
    assert not torch.equal(draws.noise, draws.target_noise)
    assert draws.uniform.shape == (400, 3) and draws.uniform.min() >= 0 and draws.uniform.max() < 1
    assert torch.allclose(draws.uniform.mean(dim=0), torch.full((3,), 0.5, dtype=torch.float64), atol=0.05)


def test_drawing_leaves_torchs_random_state_alone() -> None:
    before = torch.get_rng_state()
    Draws.of_seeds(torch.tensor([1]), SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_are_those_of_the_draws_numbers_and_of_the_run() -> None:
    seeds = sample_seeds(0, range(10_000))
    assert seeds.dtype == torch.int64 and len(seeds.unique()) == 10_000
    assert torch.equal(sample_seeds(0, range(3, 5)), seeds[3:5])
    assert not torch.isin(sample_seeds(1, range(100)), seeds).any()
