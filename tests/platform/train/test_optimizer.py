"""Learning rates go where the recipe says."""

import pytest
import torch
from torch import nn

from fireedit.platform.train.optimizer import OptimizerConfig, build_optimizer, learning_rate_over


def test_the_longest_beginning_of_a_name_sets_its_learning_rate() -> None:
    model = nn.ModuleDict({"tati": nn.Linear(2, 2), "unet": nn.Linear(2, 2)})
    config = OptimizerConfig(lr=0.1, lr_scale={"tati.": 10, "tati.bias": 100})
    rates = {
        id(parameter): group["lr"]
        for group in build_optimizer(model.named_parameters(), config).param_groups
        for parameter in group["params"]
    }
    by_name = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    expected = {"tati.weight": 1.0, "tati.bias": 10.0, "unet.weight": 0.1, "unet.bias": 0.1}
    assert by_name == pytest.approx(expected)


def test_a_scale_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no trained parameter begins with 'hvac'"):
        build_optimizer(nn.Linear(2, 2).named_parameters(), OptimizerConfig(lr=0.1, lr_scale={"hvac": 2}))


def test_the_learning_rate_climbs_stays_and_falls_if_asked_to() -> None:
    factor = learning_rate_over(100, OptimizerConfig(lr=1, warmup_ratio=0.04))
    assert [factor(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert [learning_rate_over(100, OptimizerConfig(lr=1))(step) for step in (0, 99, 100)] == [1, 1, 1]
    factor = learning_rate_over(100, OptimizerConfig(lr=1, cooldown_ratio=0.04))
    assert [factor(step) for step in (0, 95, 96, 97, 98, 99)] == pytest.approx([1, 1, 1, 0.75, 0.5, 0.25])


def test_it_is_adamw_with_the_recipes_numbers() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2).named_parameters(), OptimizerConfig(lr=1e-5, betas=(0.9, 0.99)))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["weight_decay"], optimizer.defaults["betas"]) == (0.0, (0.9, 0.99))
