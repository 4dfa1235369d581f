"""CLIP of nano: answers about instructions, positives of the contrastive loss, and the saved judge."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fireedit.jobs.evaluation.clip import JUDGE, CLIPJudge
from fireedit.jobs.training.parts import clip_encoders as clip
from fireedit.jobs.training.pretraining import pretrain
from fireedit.models.model import NANO, preset
from fireedit.models.text import text_states, tokenize_text
from fireedit.models.tokens import IGNORED
from fireedit.models.vision import Vision
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.world import TRAIN, WORLDS
from fireedit.platform.train.optimizer import OptimizerConfig

SIZES = preset("nano")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    shutil.copytree(NANO / "tokenizer", folder / "tokenizer")
    return folder


def recipe_of(folder: Path, steps: int = 2) -> clip.CLIPRecipe:
    optimizer = OptimizerConfig(lr=1e-3)
    return clip.CLIPRecipe(steps=steps, batch=4, workers=0, optimizer=optimizer, held_out=16, home=str(folder))


def answers_of(family: str, seed: int) -> dict[str, str | None]:
    numbers = zip(clip.QUESTIONS.items(), clip.answers_of(make_edit(TRAIN, seed, family)), strict=True)
    return {name: None if number == IGNORED else answers[number] for (name, answers), number in numbers}


def test_an_instruction_answers_questions_about_its_edit() -> None:
    for seed in range(20):
        edit = make_edit(TRAIN, seed, "recolor")
        placed = next(placed for placed in edit.target.objects if placed.id in edit.edited)
        answers = answers_of("recolor", seed)
        assert answers["operation"] == "recolor" and answers["after_color"] == placed.color
        assert answers["before"] == answers["after"] == (placed.name if placed.name in edit.instruction else None)
    assert answers_of("background", 0)["background"] == make_edit(TRAIN, 0, "background").target.background
    assert answers_of("style", 0)["style"] == make_edit(TRAIN, 0, "style").target.effect
    assert answers_of("left_right", 0)["which"] in ("left", "right")


def test_references_are_distinguished_from_places_and_moves() -> None:
    def answers(instruction: str, operation: str) -> set[str]:
        edit = replace(make_edit(TRAIN, 0, "remove"), instruction=instruction, operation=operation)
        numbers = dict(zip(clip.QUESTIONS, clip.answers_of(edit), strict=True))
        questions = ("which", "counted_from", "mirror", "direction", "size", "place", "category")
        return {f"{name} {clip.QUESTIONS[name][numbers[name]]}" for name in questions if numbers[name] > 0}

    assert answers("Remove the dog on the left.", "remove") == {"which left"}
    assert answers("Move the dog on the left to the right.", "move") == {"which left", "direction right"}
    assert answers("Put a red car on the left.", "add") == {"place left"}
    assert answers("Put a key to the left of the biggest animal.", "add") == {
        "place left",
        "which biggest",
        "category animal",
    }
    assert answers("Draw the leftmost dog bigger.", "resize") == {"which leftmost", "size bigger"}
    second = "Change the second vehicle from the right to a key."
    assert answers(second, "replace") == {"which second", "counted_from right", "category vehicle"}
    assert answers("Delete the reflection of the dog.", "remove") == {"mirror in"}
    assert answers("Delete the dog outside the mirror.", "remove") == {"mirror outside"}


def test_a_use_answers_for_its_object_and_two_objects_are_asked_for() -> None:
    edit = make_edit(TRAIN, 5, "reasoning")
    used = next(placed for placed in edit.source.objects if placed.id in edit.edited)
    assert used.name not in edit.instruction and answers_of("reasoning", 5)["before"] == used.name
    both = make_edit(TRAIN, 1, "multiple")
    names = {placed.id: placed.name for placed in both.source.objects}
    answers = answers_of("multiple", 1)
    for question, number in zip(("before", "second"), both.edited, strict=True):
        assert answers[question] == (names[number] if names[number] in both.instruction else None)


def test_instructions_do_not_teach_uses_that_are_left_to_dialogue() -> None:
    edit = make_edit(WORLDS["knowledge"], WORLDS["knowledge"].seeds[0])
    assert clip.answers_of(edit)[list(clip.QUESTIONS).index("before")] == IGNORED
    uses = {thing.use for thing in map(THINGS.__getitem__, TRAIN.things) if thing.taught == "dialogue"}
    texts = [make_edit(TRAIN, seed, "reasoning").instruction for seed in range(40)]
    assert uses and not any(use in text for use in uses for text in texts)


def test_equal_captions_are_positives() -> None:
    texts = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=-1)
    positive = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    loss = clip.contrastive_loss(texts, texts, torch.tensor(100.0), positive)
    torch.testing.assert_close(loss, torch.tensor(2 * 2**0.5).log() / 1.5 - torch.tensor(2**0.5).log() / 1.5)


def test_texts_are_pooled_at_the_state_that_modulates_the_unet(out: Path) -> None:
    task = clip.CLIPTask(SIZES, recipe_of(out), out)
    texts = ["A dog in front of a desert at dusk.", "Remove the dog."]
    ids = tokenize_text(task.tokenizer, texts, SIZES.text.tokens)
    assert torch.equal(task.token_ids(texts), ids.to(torch.int16))
    with torch.no_grad():
        states = text_states(task.model.clip.text_encoder.eval(), ids)
        assert torch.equal(task.model.clip.read(ids), states[:, -1]) and states.shape[1] == 77


def test_a_seed_draws_an_edit_and_instructions_of_others(out: Path) -> None:
    task = clip.CLIPTask(SIZES, recipe_of(out), out)
    first, other, again = (task.draw(seed) for seed in (3, 4, 3))
    assert all(torch.equal(first[name], again[name]) and first[name].shape == other[name].shape for name in first)
    assert first["instructions"][0].tolist() == task.token_ids([make_edit(TRAIN, 3).instruction])[0].tolist()
    assert len(first["instructions"].unique(dim=0)) > 1 and (first["captions_sum"] != other["captions_sum"]).all()


@pytest.mark.parametrize("has_judge", [True, False])
def test_saved_encoders_load_with_the_projections_where_there_is_a_judge(
    out: Path, tmp_path: Path, has_judge: bool
) -> None:
    earlier, task = (clip.CLIPTask(SIZES, recipe_of(out), out) for _ in range(2))
    earlier.save(copy.deepcopy(earlier.model), tmp_path)
    if not has_judge:
        (tmp_path / JUDGE).unlink()
    probes = task.model.readers.weight.clone()
    task.load(tmp_path)
    loaded, written = (clip_task.model.clip.state_dict() for clip_task in (task, earlier))
    for name, value in written.items():
        same = torch.allclose(loaded[name], value, atol=1e-3, rtol=1e-3)
        assert same == (has_judge or "_projection." not in name), name
    assert torch.equal(task.model.readers.weight, probes)


def test_loading_without_a_text_encoder_names_it(out: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="text_encoder is missing; write init_from=FOLDER that holds text_encoder"):
        clip.CLIPTask(SIZES, recipe_of(out), out).load(tmp_path)


def test_trained_weights_are_saved_and_judge(out: Path, tmp_path: Path) -> None:
    before = Vision(SIZES.vision)
    before.save_pretrained(out / "vision")
    task = clip.CLIPTask(SIZES, recipe_of(tmp_path), out)
    report = pretrain(task, recipe_of(tmp_path), out)
    assert {"image_to_text", "text_to_image", "twin_accuracy", *clip.QUESTIONS} <= set(report)

    after = Vision.from_pretrained(out / "vision", torch_dtype=torch.float32)
    torch.testing.assert_close(after.dino.state_dict(), before.dino.state_dict(), atol=1e-3, rtol=1e-3)
    judge = CLIPJudge.from_pretrained(out)
    view = torch.randint(256, (2, 128, 128, 3), dtype=torch.uint8)
    for vectors in (judge.pictures(view), judge.texts(["A dog.", "A red car in front of a desert at dusk."])):
        assert vectors.shape == (2, SIZES.text.width)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    projections = [name for name, _ in judge.clip.named_parameters() if "_projection." in name]
    assert len(projections) == 2 and judge.clip.scale() > 10
