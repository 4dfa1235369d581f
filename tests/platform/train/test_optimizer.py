"""Optimizers follow the recipe: learning rates, Muon's matrices, joint clipping, averages."""

import pytest
import torch
from torch import nn

from fireedit.platform.train.optimizer import (
    AveragedWeights,
    ClippedTogether,
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


def small() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"body": nn.Linear(4, 4), "table": nn.Embedding(3, 4)})


def test_joint_optimizers_clip_together_and_resume_from_their_state() -> None:
    def learn(steps: int, resumed: bool) -> list[torch.Tensor]:
        model, config = small(), OptimizerConfig(lr=0.1, muon_lr=0.2, adamw_only=("table.",))
        together = ClippedTogether(build_optimizers(model.named_parameters(), config), clip=0.5)
        for step in range(steps):
            if step == 2 and resumed:
                state = together.state_dict()
                together = ClippedTogether(build_optimizers(model.named_parameters(), config), clip=0.5)
                together.load_state_dict(state)
            for group in together.param_groups:
                group["lr"] = 0.01 * (step + 1)
            together.zero_grad()
            (10 * model["body"](model["table"].weight)).square().mean().backward()
            together.step()
            total = torch.stack([parameter.grad.square().sum() for parameter in model.parameters()]).sum().sqrt()
            assert together._global_grad_norm > 0.5 and float(total) == pytest.approx(0.5, rel=1e-3)
        return [parameter.detach() for parameter in model.parameters()]

    for whole, broken in zip(learn(4, False), learn(4, True), strict=True):
        torch.testing.assert_close(whole, broken)


def test_early_averages_forget_faster_and_swap_with_the_weights() -> None:
    weight = nn.Parameter(torch.zeros(1))
    averages, mean = AveragedWeights([weight], 0.9), 0.0
    for update in range(20):
        with torch.no_grad():
            weight.fill_(update)
        averages.update()
        decay = min(0.9, (1 + update) / (10 + update))
        mean = decay * mean + (1 - decay) * update
    averages.swap()
    assert weight.item() == pytest.approx(mean)
    averages.swap()
    assert weight.item() == 19


def test_loaded_averages_continue_as_the_saved_ones() -> None:
    weight = nn.Parameter(torch.zeros(3))
    averages, again = AveragedWeights([weight], 0.9), AveragedWeights([weight], 0.9)

    def learn(count: int, *members: AveragedWeights) -> None:
        for _ in range(count):
            with torch.no_grad():
                weight.add_(1)
            for member in members:
                member.update()

    learn(5, averages)
    again.load_state_dict(averages.state_dict())
    learn(5, averages, again)
    assert torch.equal(averages.means[0], again.means[0]) and averages.updates == again.updates == 10
    assert averages.means[0] is not again.means[0]


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
