"""HVCA's detail tokens depend on the text and on each of the sources that its config selects."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fireedit.models.hvca import HVCA, CrossAttention, HVCAConfig
from fireedit.models.model import NANO, preset
from fireedit.models.vision import Sources
from fireedit.models.weights import WeightsError

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


@pytest.mark.parametrize(("selected", "places"), [("coarse", (0, 2)), ("fine", (1, 3))])
def test_the_sources_of_one_view_have_projections_and_gradients_alone(
    sources: list[Tensor], edit_tokens: Tensor, selected: Sources, places: tuple[int, ...]
) -> None:
    both, hvca = HVCA(preset("nano").hvca), HVCA(replace(preset("nano").hvca, sources=selected))
    lacking = {f"source_in.{place}.{kind}" for place in {0, 1, 2, 3} - {*places} for kind in ("weight", "bias")}
    assert both.state_dict().keys() - hvca.state_dict().keys() == lacking
    counts = [sum(parameter.numel() for parameter in each.parameters()) for each in (both, hvca)]
    assert counts[0] - counts[1] == 2 * (96 * 96 + 96)
    hvca([sources[place] for place in places], edit_tokens).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in hvca.parameters())
    with pytest.raises(ValueError, match="zip"):
        hvca(sources, edit_tokens)


def test_weights_of_other_sources_do_not_load(tmp_path: Path) -> None:
    HVCA(replace(preset("nano").hvca, sources="coarse")).save_pretrained(tmp_path)
    assert HVCA.from_pretrained(tmp_path).config.sources == "coarse"
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"coarse"', '"fine"'))
    with pytest.raises(WeightsError, match=r"lacks 4 tensors of HVCA, such as source_in\.1\.bias"):
        HVCA.from_pretrained(tmp_path)


def test_the_shipped_weights_read_both_views_and_are_trained(hvca: HVCA) -> None:
    shipped = HVCA.from_pretrained(NANO / "hvca")
    assert shipped.config.sources == "both" and len(shipped.source_in) == 4
    assert hvca.untrained and not shipped.untrained


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
