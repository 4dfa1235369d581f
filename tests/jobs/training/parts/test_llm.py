"""The LLM before the stages: its prompts, its trained weights and its figures."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fireedit.jobs.training.conversations import (
    KNOWLEDGE,
    Conversation,
    QuestionAnswer,
    conversation_by_use,
    make_conversation,
)
from fireedit.jobs.training.held_out import HELD_OUT
from fireedit.jobs.training.parts.llm import LanguageRecipe, LanguageTask
from fireedit.models.model import NANO, FireEditConfig, preset
from fireedit.models.tokens import IGNORED, PADDING
from fireedit.models.vlm import VLM
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.train.optimizer import OptimizerConfig

SEEDS = range(60)


@pytest.fixture(scope="module")
def sizes() -> FireEditConfig:
    nano = preset("nano")
    return replace(nano, vlm=replace(nano.vlm, layers=2))


@pytest.fixture
def task(sizes: FireEditConfig, tmp_path: Path) -> LanguageTask:
    for name in ("vlm_tokenizer", "vision", "detector", "region_encoder"):
        shutil.copytree(NANO / name, tmp_path / name)
    recipe = LanguageRecipe(steps=4, batch=8, optimizer=OptimizerConfig(lr=1e-3), held_out=6, home=str(tmp_path))
    torch.manual_seed(0)
    return LanguageTask(sizes, recipe, tmp_path)


def drawn(task: LanguageTask) -> dict[str, torch.Tensor]:
    return torch.utils.data.default_collate([task.draw(seed) for seed in range(8)])


def test_a_lesson_of_words_is_read_without_the_picture(task: LanguageTask) -> None:
    conversation = next(conversation for seed in SEEDS if not (conversation := make_conversation(TRAIN, seed)).turns)
    row = task.row(conversation)
    ids = row["input_ids"][row["input_ids"] != PADDING]
    assert ids.max() < task.sizes.vlm.vocab_size and torch.equal(row["labels"][: len(ids)], ids)
    assert row["labels"].dtype == torch.int16
    assert (row["labels"][len(ids) :] == IGNORED).all()


def test_a_seed_always_draws_the_same_row(task: LanguageTask) -> None:
    first, other, again = (task.draw(seed) for seed in (3, 4, 3))
    assert all(torch.equal(first[name], again[name]) and first[name].shape == other[name].shape for name in first)
    assert not torch.equal(first["input_ids"], other["input_ids"])


def test_base_and_mark_tokens_are_trained_but_neither_lora_nor_img_rows(task: LanguageTask) -> None:
    model = task.model
    assert isinstance(model, VLM)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    batch, losses = drawn(task), []
    for _ in range(6):
        loss = task.losses(model, batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert same == {name for name in before if "lora_" in name} | {"new_head.weight"}
    img = model.first_img - model.config.vocab_size
    rows, initial = model.new_embeddings.weight.detach(), before["new_embeddings.weight"]
    assert torch.equal(rows[img:], initial[img:])
    assert all(not torch.equal(rows[mark], initial[mark]) for mark in range(img))


def test_given_regions_replace_proposed_ones(task: LanguageTask) -> None:
    conversation = next(conversation for seed in SEEDS if (conversation := make_conversation(TRAIN, seed)).regions)
    rows = [task.row(conversation), task.row(replace(conversation, regions=()))]
    _, regions = task.perceive(torch.utils.data.default_collate(rows))
    assert len(regions[0]) == len(conversation.regions)
    assert 1 <= len(regions[1]) <= task.sizes.detector.proposals.max_regions


def test_an_answer_is_right_only_if_every_token_is(task: LanguageTask) -> None:
    """An LLM overfitted to one answer predicts it, and no other."""
    red, blue = (QuestionAnswer("colour", "What color is the car?", f"It is {color}.") for color in ("red", "blue"))
    conversation = Conversation(scene=make_edit(TRAIN, 1).source, turns=(red,))
    wrong = replace(conversation, turns=(blue,))
    collate = torch.utils.data.default_collate
    optimizer = torch.optim.AdamW([p for p in task.model.parameters() if p.requires_grad], lr=3e-3)
    batch = collate([task.row(conversation)])
    for _ in range(30):
        task.losses(task.model, batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    answers, true, nll = task.answer(task.model.eval(), collate([task.row(conversation), task.row(wrong)]))
    assert torch.equal(answers[0], true[0]) and not torch.equal(answers[1], true[1]) and nll > 0


def test_figures_and_sheet_use_held_out_conversations(task: LanguageTask) -> None:
    figures = task.figures(task.model.eval())
    assert 100 < figures["perplexity"] < 10_000, "an untrained LLM is near chance over 1024 tokens"
    conversations = [make_conversation(HELD_OUT, seed) for seed in HELD_OUT.seeds[:6]]
    conversations.append(conversation_by_use(KNOWLEDGE.seeds[0]))
    kinds = {turn.kind for conversation in conversations for turn in conversation.turns}
    assert set(figures) == {"perplexity"} | {f"exact_{kind}" for kind in kinds - {"description", "after"}}
    assert task.preview(task.model).height > 192


def test_saved_weights_give_the_same_loss(task: LanguageTask, tmp_path: Path) -> None:
    batch = drawn(task)
    assert isinstance(task.model, VLM)
    with torch.no_grad():
        before = task.losses(task.model.eval(), batch)["loss"]
        task.save(task.model, tmp_path)
        loaded = VLM.from_pretrained(tmp_path / "vlm").float().eval()
        assert torch.isclose(task.losses(loaded, batch)["loss"], before, rtol=1e-2)
