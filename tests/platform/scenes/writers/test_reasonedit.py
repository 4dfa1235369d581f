import json
from pathlib import Path

import pytest

from fireedit.platform.scenes import world
from fireedit.platform.scenes.writers import reasonedit


def test_all_wordings_are_listed_and_the_plain_one_first(tmp_path: Path) -> None:
    reasonedit.write(tmp_path, range(30), 16, world.TRAIN)
    records = json.loads((tmp_path / "SyntheticData_info_new.json").read_text())
    for seed, record in enumerate(records.values()):
        edit = reasonedit.hard_edit(world.TRAIN, seed)
        assert record["instruction"][0] == edit.plain and record["instruction"][-1] == edit.instruction
        assert len(record["instruction"]) == 1 + (edit.plain != edit.instruction)
    assert any(len(record["instruction"]) == 2 for record in records.values())


def test_the_benchmark_keeps_its_six_folders(tmp_path: Path) -> None:
    reasonedit.write_benchmark(tmp_path, range(12), 16, world.TRAIN)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == list(reasonedit.FOLDERS)
    held_out = world.WORLDS["knowledge"]
    with pytest.raises(ValueError, match="'knowledge' has no edits.*'left_right'"):
        reasonedit.write_benchmark(tmp_path, held_out.seeds[:1], 16, held_out)
