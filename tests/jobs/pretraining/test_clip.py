"""CLIP of nano: what is asked of an instruction, what counts as a match, and that what is saved judges."""

import shutil
from pathlib import Path

import pytest
import torch

from fireedit.jobs.pretraining import clip
from fireedit.jobs.pretraining.loop import pretrain
from fireedit.models.fireedit import NANO, preset
from fireedit.models.tokens import IGNORED
from fireedit.models.vision import CLIP_MEAN, CLIP_STD, Vision
from fireedit.platform.data.scenes.families import make_edit
from fireedit.platform.data.scenes.world import TRAIN
from fireedit.platform.train.optimizer import OptimizerConfig

SIZES = preset("nano")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    shutil.copytree(NANO / "tokenizer", folder / "tokenizer")
    return folder


def recipe_of(folder: Path, steps: int = 3) -> clip.CLIPRecipe:
    optimizer = OptimizerConfig(lr=1e-3)
    return clip.CLIPRecipe(steps=steps, batch=8, workers=0, optimizer=optimizer, home=str(folder))


def answers_of(family: str, seed: int) -> dict[str, str | None]:
    numbers = zip(clip.QUESTIONS.items(), clip.asked_of(make_edit(TRAIN, seed, family)), strict=True)
    return {name: None if number == IGNORED else answers[number] for (name, answers), number in numbers}


def test_an_instruction_answers_what_its_edit_does() -> None:
    for seed in range(20):
        edit = make_edit(TRAIN, seed, "recolor")
        placed = next(one for one in edit.target.objects if one.id in edit.edited)
        answers = answers_of("recolor", seed)
        assert answers["operation"] == "recolor" and answers["after_color"] == placed.color
        assert answers["before"] == answers["after"] == (placed.name if placed.name in edit.instruction else None)
    assert answers_of("background", 0)["background"] == make_edit(TRAIN, 0, "background").target.background
    assert answers_of("style", 0)["style"] == make_edit(TRAIN, 0, "style").target.effect
    assert answers_of("left_right", 0)["side"] in ("left", "right")


def test_a_use_tells_a_thing_and_two_things_are_not_asked_for() -> None:
    edit = make_edit(TRAIN, 5, "reasoning")
    used = next(one for one in edit.source.objects if one.id in edit.edited)
    assert used.name not in edit.instruction and answers_of("reasoning", 5)["before"] == used.name
    assert answers_of("multiple", 5)["before"] is None


def test_equal_captions_count_as_matches() -> None:
    texts = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=-1)
    alike = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    loss = clip.contrast(texts, texts, torch.tensor(100.0), alike)
    torch.testing.assert_close(loss, torch.tensor(2 * 2**0.5).log() / 1.5 - torch.tensor(2**0.5).log() / 1.5)


def test_cross_entropy_is_zero_where_nothing_is_known() -> None:
    assert clip.known_cross_entropy(torch.zeros(2, 3), torch.tensor([IGNORED, IGNORED])) == 0
    loss = clip.known_cross_entropy(torch.zeros(2, 3), torch.tensor([1, IGNORED]))
    torch.testing.assert_close(loss, torch.tensor(3.0).log())


def test_clip_is_trained_on_the_views_that_hvca_reads() -> None:
    vision = Vision(SIZES.vision).eval()
    view = torch.randint(256, (2, SIZES.vision.image_size, SIZES.vision.image_size, 3), dtype=torch.uint8)
    with torch.no_grad():
        coarse, fine, *_ = vision(view).detail
        for states, side in ((coarse, SIZES.vision.detail_size), (fine, SIZES.vision.image_size)):
            pixels = clip.shown(view, side, CLIP_MEAN, CLIP_STD)
            seen = vision.clip(pixels, output_hidden_states=True, interpolate_pos_encoding=True)
            torch.testing.assert_close(seen.hidden_states[-2][:, 1:], states)


def test_padding_changes_no_text(out: Path) -> None:
    part = clip.CLIPPart(SIZES, recipe_of(out), out)
    model = part.model.clip.eval()
    ids = clip.tokenize_text(part.tokenizer, ["A dog in front of outer space.", "Remove the dog."], SIZES.text.tokens)
    with torch.no_grad():
        torch.testing.assert_close(model.read(ids), model.text_encoder(ids).pooler_output)


def test_a_step_draws_the_same_scenes_after_a_break(out: Path) -> None:
    part = clip.CLIPPart(SIZES, recipe_of(out), out)
    (*_, last), (again,) = part.batches(0, 2), part.batches(1, 2)
    assert last["instruction"] == again["instruction"] and torch.equal(last["pictures"], again["pictures"])


def test_what_is_trained_is_saved_and_judges(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "HELD_OUT_SCENES", 16)
    before = Vision(SIZES.vision)
    before.save_pretrained(out / "vision")
    part = clip.CLIPPart(SIZES, recipe_of(tmp_path), out)
    report = pretrain(part, recipe_of(tmp_path), out)
    assert {"image_to_text", "text_to_image", "twin_accuracy", *clip.QUESTIONS} <= set(report)

    after = Vision.from_pretrained(out / "vision", torch_dtype=torch.float32)
    torch.testing.assert_close(after.dino.state_dict(), before.dino.state_dict(), atol=1e-3, rtol=1e-3)
    judge = clip.CLIPJudge.from_pretrained(out)
    view = torch.randint(256, (2, 128, 128, 3), dtype=torch.uint8)
    for vectors in (judge.pictures(view), judge.texts(["A dog.", "A red car in front of a desert at dusk."])):
        assert vectors.shape == (2, SIZES.text.width)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    kept = {name: value for name, value in judge.clip.named_parameters() if "_projection." in name}
    assert len(kept) == 2 and judge.clip.scale() > 10
