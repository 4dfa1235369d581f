"""Layers in float32: the outputs of float32 weights, from weights that stay in bfloat16."""

import pytest
import torch
from torch import nn

from fireedit.jobs.planning import layers_in_float32
from fireedit.jobs.planning.layers_in_float32 import compute_in_float32


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.layers = nn.ModuleList([*(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(3)), nn.Tanh()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("large", [False, True])
def test_outputs_are_those_of_float32(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_in_float32, "LARGE", 0 if large else 2**30)
    torch.manual_seed(0)
    stack, x = Stack().bfloat16(), torch.randn(2, 8)
    exact = Stack()
    exact.load_state_dict(stack.state_dict())
    before = {name: tensor.clone() for name, tensor in stack.state_dict().items()}
    compute_in_float32(stack)
    for _ in range(2):
        assert torch.equal(stack(x), exact(x))
    after = stack.state_dict()
    assert all(torch.equal(tensor.float(), after[name].float()) for name, tensor in before.items())
    kept = torch.bfloat16 if large else torch.float32
    assert after["layers.0.0.weight"].dtype == kept and after["first.weight"].dtype == torch.float32
