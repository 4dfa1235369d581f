"""The LLM before the stages: what it is asked, what of it learns, and what it is judged by."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fireedit.jobs.training.held_out import HELD_OUT
from fireedit.jobs.training.parts.lessons import KNOWLEDGE, Lesson, Turn, known_by_use, make_lesson
from fireedit.jobs.training.parts.llm import LanguageRecipe, LanguageTask
from fireedit.models.model import NANO, FireEditConfig, preset
from fireedit.models.tokens import IGNORED, PADDING
from fireedit.models.vlm import VLM
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.world import TRAIN
from fireedit.platform.train.optimizer import OptimizerConfig

SEEDS = range(60)


@pytest.fixture(scope="module")
def sizes() -> FireEditConfig:
    nano = preset("nano")
    return replace(nano, vlm=replace(nano.vlm, layers=2))


@pytest.fixture
def part(sizes: FireEditConfig, tmp_path: Path) -> LanguageTask:
    shutil.copytree(NANO / "vlm_tokenizer", tmp_path / "vlm_tokenizer")
    recipe = LanguageRecipe(steps=4, batch=8, optimizer=OptimizerConfig(lr=1e-3), held_out=6, home=str(tmp_path))
    torch.manual_seed(0)
    return LanguageTask(sizes, recipe, tmp_path)


def drawn(part: LanguageTask) -> dict[str, torch.Tensor]:
    renderer = Renderer()
    return torch.utils.data.default_collate([part.draw(renderer, seed) for seed in range(8)])


def test_a_lesson_of_words_is_read_without_the_picture(part: LanguageTask) -> None:
    lesson = next(lesson for seed in SEEDS if not (lesson := make_lesson(TRAIN, seed)).turns)
    row = part._row(Renderer(), lesson)
    read = row["input_ids"][row["input_ids"] != PADDING]
    assert read.max() < part.sizes.vlm.vocab_size and torch.equal(row["labels"][: len(read)], read)
    assert row["labels"].dtype == torch.int16
    assert (row["labels"][len(read) :] == IGNORED).all()


def test_a_seed_always_draws_the_same_row(part: LanguageTask) -> None:
    first, other, again = (part.draw(Renderer(), seed) for seed in (3, 4, 3))
    assert all(torch.equal(first[name], again[name]) and first[name].shape == other[name].shape for name in first)
    assert not torch.equal(first["input_ids"], other["input_ids"])


def test_the_base_and_the_marks_learn_but_neither_lora_nor_img_rows(part: LanguageTask) -> None:
    model = part.model
    assert isinstance(model, VLM)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    batch, losses = drawn(part), []
    for _ in range(6):
        loss = part.losses(model, batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert same == {name for name in before if "lora_" in name} | {"new_head.weight"}
    img = model.first_img - model.config.vocab_size
    rows, old = model.new_embeddings.weight.detach(), before["new_embeddings.weight"]
    assert torch.equal(rows[img:], old[img:])
    assert all(not torch.equal(rows[mark], old[mark]) for mark in range(img))


def test_given_regions_take_the_place_of_proposed_ones(part: LanguageTask) -> None:
    lesson = next(lesson for seed in SEEDS if (lesson := make_lesson(TRAIN, seed)).regions)
    draw = Renderer()
    rows = [part._row(draw, lesson), part._row(draw, replace(lesson, regions=()))]
    _, regions = part._seen(torch.utils.data.default_collate(rows))
    assert len(regions[0]) == len(lesson.regions)
    assert 1 <= len(regions[1]) <= part.sizes.detector.proposals.max_regions


def test_an_answer_is_right_only_if_every_token_is(part: LanguageTask) -> None:
    """An LLM that has learnt one answer by heart says it, and no other."""
    lesson = Lesson(scene=make_edit(TRAIN, 1).source, turns=(Turn("colour", "What color is the car?", "It is red."),))
    wrong = replace(lesson, turns=(Turn("colour", "What color is the car?", "It is blue."),))
    draw, collate = Renderer(), torch.utils.data.default_collate
    optimizer = torch.optim.AdamW([p for p in part.model.parameters() if p.requires_grad], lr=3e-3)
    batch = collate([part._row(draw, lesson)])
    for _ in range(30):
        part.losses(part.model, batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    said = part._say(part.model.eval(), collate([part._row(draw, lesson), part._row(draw, wrong)]))
    assert torch.equal(said.words[0], said.wanted[0]) and not torch.equal(said.words[1], said.wanted[1])
    assert said.surprise > 0


def test_figures_and_sheet_are_of_held_out_lessons(part: LanguageTask) -> None:
    figures = part.figures(part.model.eval())
    assert 100 < figures["perplexity"] < 10_000, "an untrained one knows nothing of 1024 tokens"
    lessons = [make_lesson(HELD_OUT, seed) for seed in HELD_OUT.seeds[:6]] + [known_by_use(KNOWLEDGE.seeds[0])]
    kinds = {turn.kind for lesson in lessons for turn in lesson.turns}
    assert set(figures) == {"perplexity"} | {f"exact_{kind}" for kind in kinds - {"description", "after"}}
    assert part.preview(part.model).height > 192


def test_saved_weights_answer_alike(part: LanguageTask, tmp_path: Path) -> None:
    batch = drawn(part)
    assert isinstance(part.model, VLM)
    with torch.no_grad():
        before = part.losses(part.model.eval(), batch)["loss"]
        part.save(part.model, tmp_path)
        loaded = VLM.from_pretrained(tmp_path / "vlm").float().eval()
        assert torch.isclose(part.losses(loaded, batch)["loss"], before, rtol=1e-2)
