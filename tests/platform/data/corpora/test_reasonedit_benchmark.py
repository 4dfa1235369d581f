from pathlib import Path

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import masks, reasonedit, reasonedit_benchmark, rows, segmentation
from fireedit.platform.scenes import families, world
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.writers import changes
from fireedit.platform.scenes.writers import reasonedit as writer

HELD_OUT = world.WORLDS["unseen_seeds"]
SEEDS = HELD_OUT.seeds[:12]


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    writer.write_benchmark(tmp_path, SEEDS, 64, HELD_OUT)
    return tmp_path


def left_right(benchmark: Path) -> Path:
    return benchmark / "1-Left-Right"


def test_our_writer_is_read_back(benchmark: Path) -> None:
    samples = {sample.id: sample for sample in reasonedit.read(str(benchmark), "test")}
    assert len(samples) == 12
    for index, seed in enumerate(SEEDS):
        folder = list(writer.FOLDERS)[index % 6]
        edit = families.make_edit(HELD_OUT, seed, writer.FOLDERS[folder][0])
        sample = samples[f"reasonedit/test/{folder}/{1 + index // 6:05d}"]
        assert sample.instruction == edit.instruction and not sample.error and not sample.target
        drawn = [Renderer().draw(scene, 64).image for scene in (edit.source, edit.target)]
        np.testing.assert_array_equal(images.decode(sample.source), drawn[0])
        (box,), exact = sample.boxes, segmentation.box(changes.region(*drawn))
        assert np.abs(np.subtract(box, exact)).max() <= 2 / 64, "but for the noise of a JPEG mask"


def test_a_case_tells_the_noun_and_where_its_files_lie(benchmark: Path) -> None:
    cases = reasonedit_benchmark.find_cases(str(benchmark))
    assert [case.category for case in cases] == [name for name in reasonedit_benchmark.TEXTS for _ in range(2)]
    for case in cases:
        assert case.noun and "CLIP" not in case.noun + case.instruction
        assert masks.bright((benchmark / case.mask).read_bytes()).any() and (benchmark / case.picture).exists()


def test_lines_belong_to_the_pictures_in_the_order_of_their_names(benchmark: Path) -> None:
    folder = left_right(benchmark)
    for stem, renamed in (("00001", "b"), ("00002", "a")):
        (folder / f"{stem}.png").rename(folder / f"{renamed}.png")
    (folder / "Left_Right_text.txt").write_bytes(b"\xef\xbb\xbfFirst. CLIP: cat\r\nSecond.CLIP:a dog \r\n\r\n")
    first, second = reasonedit_benchmark.find_cases(str(benchmark))[:2]
    assert (first.picture, first.instruction, first.noun) == ("1-Left-Right/a.png", "First.", "cat")
    assert (second.picture, second.instruction, second.noun) == ("1-Left-Right/b.png", "Second.", "a dog")


@pytest.mark.parametrize(("lines", "count"), [("a CLIP: b\n", 1), ("a CLIP: b\n" * 3, 3), ("", 0)])
def test_more_or_fewer_lines_than_pictures_are_refused(benchmark: Path, lines: str, count: int) -> None:
    (left_right(benchmark) / "Left_Right_text.txt").write_text(lines)
    with pytest.raises(rows.CorpusError, match=rf"Left_Right_text.txt has {count} lines for 2 pictures \*.png; write"):
        reasonedit.read(str(benchmark), "test")


@pytest.mark.parametrize("line", [b"Remove the left cat.", b"CLIP: cat", b"Remove it. CLIP:", b"", b"R\xff CLIP: cat"])
def test_a_line_of_another_form_is_a_bad_row(benchmark: Path, line: bytes) -> None:
    (left_right(benchmark) / "Left_Right_text.txt").write_bytes(line + b"\nRemove it. CLIP: cat\n")
    bad, good = list(reasonedit.read(str(benchmark), "test"))[:2]
    assert not good.error and bad.error.startswith("reasonedit/test/1-Left-Right/00001: found ")
    assert bad.error.endswith("; write `instruction CLIP: noun` in UTF-8") and not bad.source


def test_a_damaged_picture_is_a_bad_row(benchmark: Path) -> None:
    picture = left_right(benchmark) / "00001.png"
    picture.write_bytes(picture.read_bytes()[:-40])
    assert "1-Left-Right/00001.png: found a damaged PNG" in next(iter(reasonedit.read(str(benchmark), "test"))).error


def test_a_case_can_be_edited_without_its_mask(benchmark: Path) -> None:
    (left_right(benchmark) / "00001_mask.jpg").unlink()
    mask = left_right(benchmark) / "00002_mask.jpg"
    mask.write_bytes(mask.read_bytes()[:40])
    for sample in list(reasonedit.read(str(benchmark), "test"))[:2]:
        assert not sample.error and sample.source and not sample.boxes


def test_an_incomplete_benchmark_is_refused(benchmark: Path) -> None:
    (benchmark / "3-Mirror" / "Mirror_text.txt").unlink()
    with pytest.raises(rows.CorpusError, match="3-Mirror/Mirror_text.txt is missing: the instructions of ReasonEdit's"):
        reasonedit.read(str(benchmark), "test")
