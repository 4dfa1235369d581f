"""HVCA's detail tokens depend on the text and on each of the four sources."""

import pytest
import torch
from torch import Tensor

from fireedit.models.hvca import HVCA, CrossAttention, HVCAConfig
from fireedit.models.model import preset

LENGTHS = (16, 64, 16, 64)


@pytest.fixture
def hvca() -> HVCA:
    torch.manual_seed(0)
    return HVCA(preset("nano").hvca).eval()


@pytest.fixture
def sources() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, length, 96, generator=generator) for length in LENGTHS]


@pytest.fixture
def edit_tokens() -> Tensor:
    return torch.randn(2, 77, 96, generator=torch.Generator().manual_seed(2))


def test_it_reads_the_text(hvca: HVCA, sources: list[Tensor], edit_tokens: Tensor) -> None:
    before = hvca(sources, edit_tokens)
    edit_tokens[1] += torch.randn_like(edit_tokens[1])
    after = hvca(sources, edit_tokens)
    assert torch.allclose(after[0], before[0], atol=1e-6)
    assert (after[1] - before[1]).abs().max() > 1e-3


@pytest.mark.parametrize("index", range(4))
def test_each_source_matters(hvca: HVCA, sources: list[Tensor], edit_tokens: Tensor, index: int) -> None:
    before = hvca(sources, edit_tokens)
    sources[index] = sources[index] + torch.randn_like(sources[index])
    assert (hvca(sources, edit_tokens) - before).abs().max() > 1e-3


def test_the_queries_read_the_text_before_the_image(hvca: HVCA, sources: list[Tensor], edit_tokens: Tensor) -> None:
    order = []
    for name, module in hvca.named_modules():
        if isinstance(module, CrossAttention):
            module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    hvca(sources, edit_tokens)
    assert order == [f"layers.{layer}.read_{what}" for layer in range(2) for what in ("text", "picture")]


def test_weights_from_before_the_switch_let_the_instruction_show_where_text_is_dropped() -> None:
    saved = {name: value for name, value in HVCA(HVCAConfig(width=32, heads=2)).config.items() if name != "null_detail"}
    assert HVCA.from_config(saved).config.null_detail is False
    assert HVCA.from_config(saved | {"null_detail": True}).config.null_detail is True


def test_attention_equals_the_plain_formula() -> None:
    torch.manual_seed(0)
    attention, queries, keys = CrossAttention(8, 6, heads=2), torch.randn(1, 3, 8), torch.randn(1, 5, 6)
    q = attention.to_q(attention.query_norm(queries))
    k, v = attention.to_kv(attention.key_norm(keys)).split(8, dim=-1)
    heads = [
        torch.softmax(q[..., cut] @ k[..., cut].transpose(1, 2) / 2, dim=-1) @ v[..., cut]
        for cut in (slice(0, 4), slice(4, 8))
    ]
    assert torch.allclose(attention(queries, keys), attention.to_out(torch.cat(heads, dim=-1)), atol=1e-6)
