"""ReasonEdit's benchmark as an evaluation: categories, masks and nouns."""

from pathlib import Path

import pytest

from fireedit.jobs.evaluation.sets.evaluation_set import SetError
from fireedit.jobs.evaluation.sets.reasonedit import ALL, open_set
from fireedit.platform.data.corpora.reasonedit import TEXTS
from fireedit.platform.scenes.world import WORLDS
from fireedit.platform.scenes.writers import reasonedit


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, world = tmp_path_factory.mktemp("reasonedit"), WORLDS["unseen_seeds"]
    reasonedit.write_benchmark(folder, list(world.seeds[:12]), 32, world)
    return folder


def test_each_picture_counts_in_all_and_in_its_category(root: Path) -> None:
    edits = open_set(str(root), partial=True)
    tables = [each.table for each in edits.comparisons]
    assert len(tables) == len(edits.turns) == len(list(root.glob("*/*.png")))
    assert set(tables) == set(edits.totals[ALL]) == {*TEXTS}
    first = edits.comparisons[0]
    assert first.output == "1-Left-Right/00001.png" and first.mask.endswith("1-Left-Right/00001_mask.jpg")
    assert first.noun and Path(first.reference).is_file()


def test_a_picture_without_mask_is_refused(root: Path, tmp_path: Path) -> None:
    for category, text in TEXTS.items():
        (tmp_path / category).mkdir()
        for name in ("00001.png", "00001_mask.jpg"):
            (tmp_path / category / name).write_bytes((root / category / name).read_bytes())
        (tmp_path / category / text).write_text("remove it CLIP: table\n")
    assert len(open_set(str(tmp_path), partial=True).turns) == 6
    (tmp_path / "4-Color" / "00001_mask.jpg").unlink()
    with pytest.raises(SetError, match=r"4-Color/00001.png: found mask '', .* all three are needed"):
        open_set(str(tmp_path))


def test_the_published_number_is_asserted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = len(open_set(str(root), partial=True).turns)
    assert open_set(str(root), partial=True).partial
    with pytest.raises(SetError, match=f"{root}: found {found} edits of 219; write --partial"):
        open_set(str(root))
    monkeypatch.setattr("fireedit.jobs.evaluation.sets.reasonedit.SIZE", found)
    assert not open_set(str(root)).partial and not open_set(str(root), partial=True).partial
