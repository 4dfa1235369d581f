"""Conversations of the LLM: kinds of questions, right answers, and facts that only dialogue teaches."""

from collections import Counter

from fireedit.jobs.training.conversations import (
    EMPTY_REGIONS,
    KNOWLEDGE,
    conversation_by_use,
    describe,
    make_conversation,
    referent,
)
from fireedit.platform.scenes.families import NO_OP, make_edit
from fireedit.platform.scenes.objects import THINGS
from fireedit.platform.scenes.world import TRAIN

SEEDS = range(60)


def test_conversations_ask_every_kind_of_question() -> None:
    kinds = Counter(turn.kind for seed in SEEDS for turn in make_conversation(TRAIN, seed).turns)
    dialogue_kinds = {"colour", "count", "presence", "side", "use", "kind", "background", "description"}
    assert dialogue_kinds | {"meant", "plain", "named", "after", "region", "which_region", "meant_region"} == set(kinds)
    assert any(not make_conversation(TRAIN, seed).turns for seed in SEEDS), "some are captions alone"


def test_the_referent_is_the_edited_object() -> None:
    assert referent(make_edit(TRAIN, 0, NO_OP)) == "Nothing."
    assert referent(make_edit(TRAIN, 0, "background")) == "The background."
    assert referent(make_edit(TRAIN, 0, "style")) == "The whole picture."
    assert referent(make_edit(TRAIN, 0, "add")).startswith("A new ")
    edit = make_edit(TRAIN, 0, "left_right")
    chosen = next(placed for placed in edit.source.objects if placed.id in edit.edited)
    side = "left" if "left" in edit.instruction else "right"
    assert referent(edit) == f"The {describe(chosen)}." and describe(chosen).endswith(f"on the {side}")
    assert " and the " in referent(make_edit(TRAIN, 0, "multiple"))
    reflected = next(edit for seed in SEEDS if "mirror" in referent(edit := make_edit(TRAIN, seed, "mirror")))
    assert "mirror" in reflected.instruction or "reflection" in reflected.instruction


def test_uses_left_to_dialogue_are_asked_of_objects_and_never_of_instructions() -> None:
    taught = {thing.use for thing in map(THINGS.__getitem__, TRAIN.things) if thing.taught == "dialogue"}
    turns = [turn for seed in range(400) for turn in make_conversation(TRAIN, seed).turns]
    mentioned = {use for use in taught for turn in turns if use in turn.question + turn.answer}
    assert mentioned == taught
    verbs = ("Remove", "Replace", "Find", "Change it", "remove this object")
    assert not any(use in turn.question for turn in turns for use in taught if any(v in turn.question for v in verbs))
    (plain, _), edit = conversation_by_use(KNOWLEDGE.seeds[0]).turns, make_edit(KNOWLEDGE, KNOWLEDGE.seeds[0])
    assert any(use in plain.question for use in taught) and plain.answer == edit.plain


def test_plain_answers_name_their_object() -> None:
    turns = [turn for seed in range(200) for turn in make_conversation(TRAIN, seed).turns if turn.kind == "plain"]
    assert not any("can be used" in turn.answer for turn in turns)
    worked_out = [turn for turn in turns if not turn.question.startswith(turn.answer)]
    assert len(turns) / 10 < len(worked_out) < len(turns)


def test_regions_are_numbered_in_the_given_order() -> None:
    conversations = [conversation for seed in SEEDS if (conversation := make_conversation(TRAIN, seed)).regions]
    for conversation in conversations:
        objects = len(conversation.scene.objects)
        assert objects <= len(conversation.regions) <= objects + EMPTY_REGIONS
        for left, top, right, bottom in conversation.regions:
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        boxes = {f"A {describe(placed)}.".replace("A u", "An u"): placed.box for placed in conversation.scene.objects}
        for turn in conversation.turns:
            if turn.kind == "region" and turn.answer in boxes:
                given = conversation.regions[int(turn.question.removeprefix("What is region ")[:-1]) - 1]
                off = max(abs(edge - true) for edge, true in zip(given, boxes[turn.answer], strict=True))
                assert off < 0.08 or list(boxes.values()).count(boxes[turn.answer]) > 1
    turns = [turn for conversation in conversations for turn in conversation.turns]
    assert any(turn.answer == "Nothing." for turn in turns if turn.kind == "region")
