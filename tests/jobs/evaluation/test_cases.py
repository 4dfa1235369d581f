"""Cases are their seeds, and every family asks what its name says."""

import numpy as np

from fireedit.jobs.evaluation.cases import FAMILIES, TURNS, Cases, families_of
from fireedit.platform.scenes.families import LOCAL, NO_OP
from fireedit.platform.scenes.world import WORLDS

WORLD = WORLDS["unseen_seeds"]


def test_cases_are_their_seeds_however_many_are_drawn() -> None:
    few, more = (Cases(32).of("unseen_seeds", "resize", count) for count in (3, 5))
    assert [case.edit for case in more[:3]] == [case.edit for case in few]
    assert all(np.array_equal(one.source, other.source) for one, other in zip(more, few, strict=False))
    assert [case.number for case in more] == list(range(5)) and more[4].seed == WORLD.seeds[4]
    assert more[0].source.shape == (32, 32, 3) and not np.array_equal(more[0].source, more[0].target)


def test_boxes_lie_in_the_picture_and_hold_all_that_stands_there() -> None:
    for case in Cases(32).of("unseen_seeds", "mirror", 5):
        assert len(case.boxes) == len(case.edit.source.objects) + 1
        assert all(0 <= edge <= 1 for box in case.boxes for edge in box)


def test_sessions_go_on_with_edits_that_leave_most_as_it_is() -> None:
    for turns in Cases(32).sessions("unseen_seeds", 4):
        assert len(turns) == TURNS and all(turn.edit.family in LOCAL for turn in turns)
        for one, following in zip(turns, turns[1:], strict=False):
            assert np.array_equal(one.target, following.source)


def test_a_split_lacks_families_that_cannot_be_about_its_things() -> None:
    assert families_of("unseen_seeds") == FAMILIES
    assert not {"background", "style"} & set(families_of("unseen_pairs"))
    assert Cases(32).of("unseen_pairs", "style", 2) == []
    assert families_of("knowledge") == ("reasoning",)
    assert len(Cases(32).of("knowledge", "reasoning", 2)) == 2 and Cases(32).of("knowledge", NO_OP, 2) == []
    assert Cases(32).sessions("knowledge", 2) == []
