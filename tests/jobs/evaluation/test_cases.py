"""Cases depend on their seeds alone, and families contain the edits they are named after."""

import numpy as np

from fireedit.jobs.evaluation.cases import FAMILIES, TURNS, Cases, families_of
from fireedit.platform.scenes.families import LOCAL, NO_OP
from fireedit.platform.scenes.world import WORLDS

WORLD = WORLDS["unseen_seeds"]


def test_a_case_depends_on_its_seed_alone() -> None:
    few, more = (Cases(32).of("unseen_seeds", "resize", count) for count in (3, 5))
    assert [case.edit for case in more[:3]] == [case.edit for case in few]
    assert all(np.array_equal(case.source, other.source) for case, other in zip(more, few, strict=False))
    assert [case.seed for case in more] == list(WORLD.seeds[:5])
    assert more[0].source.shape == (32, 32, 3) and not np.array_equal(more[0].source, more[0].target)


def test_boxes_cover_all_objects_and_the_mirror_within_the_picture() -> None:
    for case in Cases(32).of("unseen_seeds", "mirror", 5):
        assert len(case.boxes) == len(case.edit.source.objects) + 1
        assert all(0 <= edge <= 1 for box in case.boxes for edge in box)


def test_sessions_continue_with_local_edits() -> None:
    for turns in Cases(32).sessions("unseen_seeds", 4):
        assert len(turns) == TURNS and all(turn.edit.family in LOCAL for turn in turns)
        for turn, following in zip(turns, turns[1:], strict=False):
            assert np.array_equal(turn.target, following.source)


def test_a_session_is_drawn_again_by_its_seed() -> None:
    cases = Cases(32)
    for turns in cases.sessions("unseen_seeds", 3):
        again = cases.session("unseen_seeds", turns[0].seed)
        assert [turn.edit for turn in again] == [turn.edit for turn in turns]
        assert np.array_equal(again[2].target, turns[2].target)


def test_a_split_has_only_the_families_that_suit_it() -> None:
    assert families_of("unseen_seeds") == FAMILIES
    assert not {"background", "style"} & set(families_of("unseen_pairs"))
    assert Cases(32).of("unseen_pairs", "style", 2) == []
    assert families_of("knowledge") == ("reasoning",)
    assert len(Cases(32).of("knowledge", "reasoning", 2)) == 2 and Cases(32).of("knowledge", NO_OP, 2) == []
    assert Cases(32).sessions("knowledge", 2) == []
