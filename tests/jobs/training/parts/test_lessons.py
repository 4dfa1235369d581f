"""Lessons of the LLM: what they ask, what is right, and what only dialogues tell."""

from collections import Counter

from fireedit.jobs.training.held_out import HELD_OUT
from fireedit.jobs.training.parts.lessons import EMPTY_REGIONS, KNOWLEDGE, known_by_use, make_lesson, meant, told
from fireedit.platform.scenes.families import NO_OP, make_edit
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.world import TRAIN

SEEDS = range(60)


def test_a_seed_always_gives_the_same_lesson() -> None:
    assert [make_lesson(TRAIN, seed) for seed in range(5)] == [make_lesson(TRAIN, seed) for seed in range(5)]
    assert make_lesson(HELD_OUT, HELD_OUT.seeds[0]) != make_lesson(TRAIN, 0)


def test_lessons_ask_about_everything() -> None:
    kinds = Counter(turn.kind for seed in SEEDS for turn in make_lesson(TRAIN, seed).turns)
    asked = {"colour", "count", "presence", "side", "use", "kind", "background", "description"}
    assert asked | {"meant", "plain", "named", "after", "region", "which_region", "meant_region"} == set(kinds)
    assert any(not make_lesson(TRAIN, seed).turns for seed in SEEDS), "some are words alone"


def test_what_is_meant_is_what_is_edited() -> None:
    assert meant(make_edit(TRAIN, 0, NO_OP)) == "Nothing."
    assert meant(make_edit(TRAIN, 0, "background")) == "The background."
    assert meant(make_edit(TRAIN, 0, "style")) == "The whole picture."
    assert meant(make_edit(TRAIN, 0, "add")).startswith("A new ")
    edit = make_edit(TRAIN, 0, "left_right")
    chosen = next(placed for placed in edit.source.objects if placed.id in edit.edited)
    side = "left" if "left" in edit.instruction else "right"
    assert meant(edit) == f"The {told(chosen)}." and told(chosen).endswith(f"on the {side}")
    assert " and the " in meant(make_edit(TRAIN, 0, "multiple"))
    reflected = next(edit for seed in SEEDS if "mirror" in meant(edit := make_edit(TRAIN, seed, "mirror")))
    assert "mirror" in reflected.instruction or "reflection" in reflected.instruction


def test_uses_that_only_dialogue_teaches_are_asked_of_objects_and_never_of_instructions() -> None:
    taught = {thing.use for thing in map(THINGS.__getitem__, TRAIN.things) if thing.taught == "dialogue"}
    turns = [turn for seed in range(400) for turn in make_lesson(TRAIN, seed).turns]
    known = {use for use in taught for turn in turns if use in turn.question + turn.answer}
    assert known == taught
    verbs = ("Remove", "Replace", "Find", "Change it", "remove this object")
    assert not any(use in turn.question for turn in turns for use in taught if any(v in turn.question for v in verbs))
    (plain, _), edit = known_by_use(KNOWLEDGE.seeds[0]).turns, make_edit(KNOWLEDGE, KNOWLEDGE.seeds[0])
    assert any(use in plain.question for use in taught) and plain.answer == edit.plain


def test_what_is_said_plainly_names_its_object() -> None:
    turns = [turn for seed in range(200) for turn in make_lesson(TRAIN, seed).turns if turn.kind == "plain"]
    assert not any("can be used" in turn.answer for turn in turns)
    worked_out = [turn for turn in turns if not turn.question.startswith(turn.answer)]
    assert len(turns) / 10 < len(worked_out) < len(turns)


def test_regions_are_numbered_as_they_are_given() -> None:
    lessons = [lesson for seed in SEEDS if (lesson := make_lesson(TRAIN, seed)).regions]
    for lesson in lessons:
        objects = len(lesson.scene.objects)
        assert objects <= len(lesson.regions) <= objects + EMPTY_REGIONS
        assert all(0 <= left < right <= 1 and 0 <= top < bottom <= 1 for left, top, right, bottom in lesson.regions)
        boxes = {f"A {told(placed)}.".replace("A u", "An u"): placed.box for placed in lesson.scene.objects}
        for turn in lesson.turns:
            if turn.kind == "region" and turn.answer in boxes:
                given = lesson.regions[int(turn.question.removeprefix("What is region ")[:-1]) - 1]
                off = max(abs(one - other) for one, other in zip(given, boxes[turn.answer], strict=True))
                assert off < 0.08 or list(boxes.values()).count(boxes[turn.answer]) > 1
    assert any(turn.answer == "Nothing." for lesson in lessons for turn in lesson.turns if turn.kind == "region")
