import pytest

from fireedit.platform.scenes import families, world
from fireedit.platform.scenes.writers import emu_edit


@pytest.mark.parametrize(
    ("family", "tasks"),
    [
        ("add", {"add"}),
        ("remove", {"remove"}),
        ("multiple", {"remove"}),
        ("replace", {"local"}),
        ("resize", {"local"}),
        ("recolor", {"texture"}),
        ("background", {"background"}),
        ("style", {"style", "global"}),
    ],
)
def test_every_operation_has_one_of_the_documented_tasks(family: str, tasks: set[str]) -> None:
    assert {emu_edit.task_of(families.make_edit(world.TRAIN, seed, family)) for seed in range(12)} == tasks
