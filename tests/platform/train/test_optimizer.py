"""Optimizers follow the recipe: learning rates, Muon's matrices, averages."""

import pytest
import torch
from torch import nn

from fireedit.platform.train.optimizer import (
    AveragedWeights,
    Muon,
    OptimizerConfig,
    build_optimizers,
    rate_at,
)


def test_the_longest_prefix_of_a_name_sets_its_learning_rate() -> None:
    model = nn.ModuleDict({"tati": nn.Linear(2, 2), "unet": nn.Linear(2, 2)})
    config = OptimizerConfig(lr=0.1, lr_scale={"tati.": 10, "tati.bias": 100})
    rates = {
        id(parameter): group["lr"]
        for group in build_optimizers(model.named_parameters(), config)[0].param_groups
        for parameter in group["params"]
    }
    by_name = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    expected = {"tati.weight": 1.0, "tati.bias": 10.0, "unet.weight": 0.1, "unet.bias": 0.1}
    assert by_name == pytest.approx(expected)


def test_a_prefix_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="lr_scale.*'hvac'"):
        build_optimizers(nn.Linear(2, 2).named_parameters(), OptimizerConfig(lr=0.1, lr_scale={"hvac": 2}))


def test_warmup_and_cooldown_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="found 0.7 and 0.4"):
        OptimizerConfig(lr=1, warmup_ratio=0.7, cooldown_ratio=0.4)


def test_the_learning_rate_climbs_stays_and_falls() -> None:
    config = OptimizerConfig(lr=1, warmup_ratio=0.1, cooldown_ratio=0.2)
    rates = [rate_at(done, config) for done in (0, 0.05, 0.1, 0.5, 0.8, 0.9, 1)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0])
    assert [rate_at(done, OptimizerConfig(lr=1)) for done in (0, 0.5, 1)] == [1, 1, 1]


def test_early_averages_forget_faster() -> None:
    weight, mean = nn.Parameter(torch.zeros(1)), 0.0
    averages = AveragedWeights([weight], 0.9)
    for update in range(20):
        with torch.no_grad():
            weight.fill_(update)
        averages.update()
        decay = min(0.9, (1 + update) / (10 + update))
        mean = decay * mean + (1 - decay) * update
    assert averages.means[0].item() == pytest.approx(mean) and weight.item() == 19


def test_averages_stand_for_the_weights_within_a_block_also_one_that_fails() -> None:
    weight = nn.Parameter(torch.zeros(3))
    averages = AveragedWeights([weight], 0.9)
    with torch.no_grad():
        weight.fill_(8)
    averages.update()
    with pytest.raises(RuntimeError), averages.applied():
        assert weight.tolist() == pytest.approx([7.2] * 3)
        raise RuntimeError
    assert weight.tolist() == [8] * 3 and averages.means[0].tolist() == pytest.approx([7.2] * 3)


def test_averages_of_rounded_weights_are_in_float32() -> None:
    weight = torch.zeros(1, dtype=torch.bfloat16)
    averages = AveragedWeights([weight], 0.999)
    for _ in range(50):
        weight.fill_(1.0)
        averages.update()
    assert averages.means[0].dtype == torch.float32 and 0.99 < averages.means[0].item() < 1.0


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16), (20, 8, 3, 3), (80, 4, 2, 2)])
def test_muons_update_has_singular_values_near_one_times_its_scale(shape: tuple[int, ...]) -> None:
    """Take a convolution as [out, in k k]; gradients of any size step alike."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = 1e-4 * torch.randn(shape)
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    matrix = weight.detach().flatten(1)
    values = torch.linalg.svdvals(matrix) / (0.1 * 0.2 * max(matrix.shape) ** 0.5)
    assert values.max() < 1.3 and values.median() > 0.65 and values.min() > 0.2
    descent = (weight.grad * weight.detach()).sum()
    assert descent < 0, "the step goes down the gradient"


def test_matrices_of_one_shape_step_as_they_would_alone() -> None:
    def learned(*names: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        shapes = {"a": (6, 8), "b": (6, 8), "c": (6, 2, 2, 2), "d": (8, 6)}
        weights = {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}
        for weight in weights.values():
            weight.grad = torch.randn_like(weight)
        Muon([weights[name] for name in names], lr=0.1).step()
        return {name: weights[name].detach() for name in names}

    together = learned("a", "b", "c", "d")
    for name, weight in together.items():
        torch.testing.assert_close(weight, learned(name)[name])


def test_each_parameter_belongs_to_exactly_one_optimizer() -> None:
    model = nn.ModuleDict(
        {
            "convolution": nn.Conv2d(4, 6, 3),
            "depthwise": nn.Conv2d(4, 4, 3, groups=4),
            "norm": nn.LayerNorm(4),
            "linear": nn.Linear(4, 5),
            "first": nn.Linear(4, 4),
        }
    )
    model.queries = nn.Parameter(torch.zeros(1, 7, 4))  # type: ignore[assignment]
    config = OptimizerConfig(lr=0.1, muon_lr=0.2, adamw_only=("first.",), lr_scale={"linear.": 0.5})
    muon, adamw = build_optimizers(model.named_parameters(), config)
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    assert sorted(group["lr"] for group in muon.param_groups) == [0.1, 0.2]
    assert sorted(group["lr"] for group in adamw.param_groups) == [0.05, 0.1]
    members = [group["params"] for optimizer in (muon, adamw) for group in optimizer.param_groups]
    held = [id(parameter) for parameters in members for parameter in parameters]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    taken = {names[id(parameter)] for group in muon.param_groups for parameter in group["params"]}
    assert taken == {"convolution.weight", "linear.weight"}, "a column, a row or a left-out matrix is AdamW's"
