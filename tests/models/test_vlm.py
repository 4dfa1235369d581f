"""A single prefill of the VLM equals decoding the [IMG] tokens one after another."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from fireedit.models.model import preset
from fireedit.models.tokens import IGNORED, PADDING, PromptConfig
from fireedit.models.vlm import VLM
from tests.factories import shaken

CONFIG = replace(preset("nano").vlm, prompt=PromptConfig(img_tokens=4, max_tokens=64, system=""))
VOCABULARY, WIDTH = CONFIG.vocab_size, CONFIG.width
IMAGE_START, IMAGE_END, REGIONS_START, REGIONS_END = range(VOCABULARY, VOCABULARY + 4)
IMG = list(range(VOCABULARY + 4, VOCABULARY + 8))
PICTURED = [0, IMAGE_START, IMAGE_END, 17, REGIONS_START, REGIONS_END, 21, 22, 23]


@pytest.fixture(scope="module")
def vlm() -> VLM:
    """VLM with all weights changed from their initial values, LoRA's included; read only."""
    torch.manual_seed(0)
    return shaken(VLM(CONFIG)).eval()


@pytest.fixture(scope="module")
def visual() -> tuple[Tensor, list[Tensor]]:
    """Image tokens of two images, and region tokens of three and one regions."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 16, CONFIG.image_width, generator=generator)
    return image, [torch.randn(count, WIDTH, generator=generator) for count in (3, 1)]


def rows(*prompts: list[int], padding: int = PADDING) -> Tensor:
    longest = max(map(len, prompts))
    return torch.tensor([[*ids, *[padding] * (longest - len(ids))] for ids in prompts])


def embedded(vlm: VLM, ids: list[int]) -> Tensor:
    """Look up each id in the LLM's own table or in that of the new tokens."""
    old, new = vlm.llm.model.embed_tokens.weight, vlm.new_embeddings.weight
    return torch.stack([old[i] if i < VOCABULARY else new[i - VOCABULARY] for i in ids])


def plain_states(vlm: VLM, ids: list[int], image: Tensor, regions: Tensor) -> tuple[Tensor, int]:
    """Compute normed last states of a prompt that starts with PICTURED, and the number of visual tokens."""
    adapted = vlm.adapter(image)
    parts = [embedded(vlm, ids[:2]), adapted, embedded(vlm, ids[2:5]), regions, embedded(vlm, ids[5:])]
    states = vlm.llm.model(inputs_embeds=torch.cat(parts)[None]).last_hidden_state[0]
    return states, len(adapted) + len(regions)


@torch.no_grad()
def test_the_loss_is_the_plain_cross_entropy_of_the_labelled_tokens(vlm: VLM, visual: tuple) -> None:
    image, regions = visual
    ids = [*PICTURED, *IMG]
    labels = [IGNORED] * len(PICTURED) + IMG
    answer = vlm(rows(ids), rows(labels), image[:1], regions[:1])
    states, added = plain_states(vlm, ids, image[0], regions[0])
    logits = states @ torch.cat([vlm.llm.lm_head.weight, vlm.new_head.weight]).T
    before = len(PICTURED) + added - 1  # the state that predicts [IMG] 0
    expected = -sum(F.log_softmax(logits[before + index], dim=-1)[token] for index, token in enumerate(IMG)) / 4
    assert torch.allclose(answer.losses, expected, atol=1e-5)


@torch.no_grad()
def test_each_row_of_a_batch_equals_its_single_run(vlm: VLM, visual: tuple) -> None:
    """Right padding: prompts and numbers of regions differ in length."""
    image, regions = visual
    prompts = [[*PICTURED, 40, 41, 42, 43, *IMG], [*PICTURED, *IMG]]
    labels = [[IGNORED] * (len(ids) - 4) + IMG for ids in prompts]
    both = vlm(rows(*prompts), rows(*labels, padding=IGNORED), image, regions)
    singles = [
        vlm(rows(prompts[row]), rows(labels[row]), image[row : row + 1], regions[row : row + 1]) for row in range(2)
    ]
    assert torch.allclose(both.img_states, torch.cat([single.img_states for single in singles]), atol=1e-5)
    assert torch.allclose(both.losses, torch.cat([single.losses for single in singles]), atol=1e-5)


def test_each_prompts_loss_is_the_mean_over_its_own_labels(vlm: VLM) -> None:
    """Prompts of four, two and no labelled tokens."""
    prompts = [[0, 5, 6, *IMG], [0, 7, 8, 9], [0, 11]]
    labels = [[IGNORED] * 3 + IMG, [IGNORED] * 2 + [8, 9], [IGNORED] * 2]
    together = vlm(rows(*prompts), rows(*labels, padding=IGNORED))
    first, second = (vlm(rows(prompts[row]), rows(labels[row])) for row in range(2))
    assert together.losses.dtype == torch.float32 and together.losses[2] == 0
    assert torch.allclose(together.losses[:2], torch.cat([first.losses, second.losses]), atol=1e-5)
    of_all, of_first, of_second = (
        torch.autograd.grad(output.losses.sum(), vlm.new_head.weight)[0] for output in (together, first, second)
    )
    assert torch.allclose(of_all, of_first + of_second, atol=1e-5)


def test_losses_without_labels_are_zero(vlm: VLM) -> None:
    answer = vlm(rows([0, 5, 6], [0, 7]))
    assert answer.losses.tolist() == [0, 0] and answer.losses.dtype == torch.float32


@torch.no_grad()
def test_img_states_of_a_prompt_without_img_tokens_are_zero(vlm: VLM, visual: tuple) -> None:
    image, regions = visual
    alone = vlm(rows(PICTURED), None, image[:1], regions[:1]).img_states
    assert alone.shape == (1, 4, WIDTH) and alone.abs().max() == 0
    beside = vlm(rows(PICTURED, [*PICTURED, *IMG]), None, image, regions).img_states
    assert beside[0].abs().max() == 0 and beside[1].abs().amax(dim=-1).min() > 0


@torch.no_grad()
def test_one_prefill_equals_feeding_the_img_tokens_one_by_one(vlm: VLM, visual: tuple) -> None:
    """SmartEdit decodes with a cache of keys and values and reads the state at each token."""
    image, regions = visual
    prefix = torch.cat(
        [
            embedded(vlm, PICTURED[:2]),
            vlm.adapter(image[0]),
            embedded(vlm, PICTURED[2:5]),
            regions[0],
            embedded(vlm, PICTURED[5:]),
        ]
    )
    cache, states = DynamicCache(config=vlm.llm.config), []
    vlm.llm.model(inputs_embeds=prefix[None], past_key_values=cache, use_cache=True)
    for token in IMG:
        fed = vlm.llm.model(inputs_embeds=embedded(vlm, [token])[None], past_key_values=cache, use_cache=True)
        states.append(fed.last_hidden_state[0, -1])
    answer = vlm(rows([*PICTURED, *IMG]), None, image[:1], regions[:1])
    assert torch.allclose(answer.img_states[0], torch.stack(states), atol=1e-4)


def test_only_new_rows_adapter_and_lora_have_gradients(visual: tuple) -> None:
    torch.manual_seed(0)
    vlm, (image, regions) = shaken(VLM(CONFIG)), visual
    trained = ("new_embeddings", "new_head", "adapter", "lora_")
    for name, parameter in vlm.named_parameters():
        parameter.requires_grad_(any(part in name for part in trained))
    answer = vlm(rows([*PICTURED, *IMG]), rows([IGNORED] * len(PICTURED) + IMG), image[:1], regions[:1])
    (answer.losses.mean() + answer.img_states.square().mean()).backward()
    assert vlm.llm.model.embed_tokens.weight.grad is None and vlm.llm.lm_head.weight.grad is None
    gradients = {name: p.grad for name, p in vlm.named_parameters() if p.requires_grad}
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    read = gradients["new_embeddings.weight"].abs().amax(dim=1) > 0
    assert read.all(), "every new token stands in this prompt"


def test_the_new_rows_of_a_whole_table_would_get_the_same_gradient(visual: tuple) -> None:
    """Separate tables of the new tokens compute the same as one large table."""
    torch.manual_seed(0)
    vlm = shaken(VLM(CONFIG)).eval()
    ids = [0, 30, 31, *IMG]
    vlm(rows(ids), rows([IGNORED] * 3 + IMG)).losses.mean().backward()
    table = torch.cat([vlm.llm.model.embed_tokens.weight, vlm.new_embeddings.weight]).detach().requires_grad_()
    head = torch.cat([vlm.llm.lm_head.weight, vlm.new_head.weight]).detach().requires_grad_()
    states = vlm.llm.model(inputs_embeds=table[torch.tensor(ids)][None]).last_hidden_state[0]
    F.cross_entropy(states[2:-1] @ head.T, torch.tensor(IMG)).backward()
    assert torch.allclose(vlm.new_embeddings.weight.grad, table.grad[VOCABULARY:], atol=1e-6)
    assert torch.allclose(vlm.new_head.weight.grad, head.grad[VOCABULARY:], atol=1e-6)


def test_checkpointing_gives_the_same_gradients(visual: tuple) -> None:
    torch.manual_seed(0)
    vlm, (image, regions), gradients = shaken(VLM(CONFIG)), visual, []
    for name, parameter in vlm.named_parameters():
        parameter.requires_grad_("lora_" in name or "new_" in name)
    for _ in range(2):
        torch.manual_seed(1)
        answer = vlm(rows([*PICTURED, *IMG]), rows([IGNORED] * len(PICTURED) + IMG), image[:1], regions[:1])
        (answer.losses.mean() + answer.img_states.square().mean()).backward()
        gradients.append([p.grad.clone() for p in vlm.parameters() if p.requires_grad])
        vlm.zero_grad()
        vlm.llm.activation_checkpointing_enable({"use_reentrant": False})
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.allclose(plain, checkpointed, rtol=1e-4, atol=1e-7)


def test_lora_starts_as_a_no_op() -> None:
    torch.manual_seed(0)
    vlm = VLM(CONFIG).eval()
    answer = vlm(rows([0, 5, *IMG])).img_states
    for name, parameter in vlm.named_parameters():
        if ".lora_A." in name:
            torch.nn.init.zeros_(parameter)
    assert torch.equal(vlm(rows([0, 5, *IMG])).img_states, answer)
