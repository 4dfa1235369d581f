"""Layers whose result for one sample does not depend on the rest of its batch, byte for byte.

On a CPU in float32 the usual kernels choose an order of summation by the size of the whole batch, so that a picture
would change in its last bits with the company it is sampled in. Here a linear layer is one product per sample, and a
convolution always oneDNN's, at the speed of the usual kernels. In training, in other precisions, on other devices and
where torch.compile runs them the layers are the usual ones.

MKL chooses its kernel by the alignment of the memory too, on some CPUs, unless MKL_CBWR asks it for reproducible
products; it reads the variable at its first product.
"""

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

os.environ.setdefault("MKL_CBWR", "AUTO")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear layer to x [B, ..., C_in]."""
    if not _is_inference(x):
        return F.linear(x, weight, bias)
    rows = x.flatten(1, -2) if x.ndim > 2 else x[:, None]
    weights = weight.t().expand(len(x), -1, -1)
    output = torch.bmm(rows, weights) if bias is None else torch.baddbmm(bias, rows, weights)
    return output.view(*x.shape[:-1], -1)


def attend(attention: nn.MultiheadAttention, queries: Tensor, keys: Tensor) -> Tensor:
    """Attend with the weights of an `nn.MultiheadAttention`: queries [B, Q, W] to keys, which are also the values."""
    weights = attention.in_proj_weight.chunk(3)
    projected = map(linear, (queries, keys, keys), weights, attention.in_proj_bias.chunk(3))
    query, key, value = (each.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for each in projected)
    attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return linear(attended, attention.out_proj.weight, attention.out_proj.bias)


class InvariantLinear(nn.Linear):
    """Linear layer of one matrix product per sample."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class InvariantConv2d(nn.Conv2d):
    """Convolution by oneDNN at any size; PyTorch takes another kernel for a small batch."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_inference(x):
            return super().forward(x)
        assert not isinstance(self.padding, str), self.padding
        padding, stride, dilation = self.padding, self.stride, self.dilation
        return torch.mkldnn_convolution(x.contiguous(), self.weight, self.bias, padding, stride, dilation, self.groups)


class InvariantGroupNorm(nn.GroupNorm):
    """Group normalization of planes; PyTorch sums channels-last ones, which attention leaves behind, by the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous() if _is_inference(x) else x)


def make_invariant(module: nn.Module) -> None:
    """Turn a module's linear, convolution and group norm layers into invariant ones; weights and names stay."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = InvariantLinear
        elif type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.__class__ = InvariantConv2d
        elif type(layer) is nn.GroupNorm:
            layer.__class__ = InvariantGroupNorm


def _is_inference(x: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()
    return plain and not torch.is_grad_enabled()
