import functools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import masks, reasonedit, rows
from fireedit.platform.scenes import families, world
from fireedit.platform.scenes.render import difference, draw_scene
from fireedit.platform.scenes.writers import reasonedit as writer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reasonedit")
    writer.write(folder, range(50, 58), 32, world.TRAIN)
    return folder


def edit(**changed: object) -> dict:
    paths = {"origin_img_path": "images/0000_origin.png", "target_img_path": "images/0000_target.png"}
    return paths | {"instruction": ["Remove it."]} | changed


def test_a_written_corpus_is_read_back(corpus: Path) -> None:
    samples = iter(reasonedit.read(str(corpus)))
    for index in range(8):
        scenes = writer.hard_edit(world.TRAIN, 50 + index)
        for place, text in enumerate(dict.fromkeys((scenes.plain, scenes.instruction))):
            sample = next(samples)
            assert sample.id == f"reasonedit/train/{index:04d}-{place}" and sample.task == "edit" and not sample.error
            assert (sample.instruction, sample.plain) == (text, scenes.plain if place else "")
            for data, scene in ((sample.source, scenes.source), (sample.target, scenes.target)):
                np.testing.assert_array_equal(images.decode(data), draw_scene(scene, 32).image)
    assert next(samples, None) is None


def test_every_instruction_that_differs_becomes_a_row_and_the_first_is_the_others_plain_form(corpus: Path) -> None:
    texts = {"reasonedit/train/0003": ["one", "two", " one", "three"], "reasonedit/train/0004": ["one"]}
    part = [(name, edit(instruction=listed)) for name, listed in texts.items()]
    samples = list(rows.read_items(functools.partial(reasonedit.read_edit, str(corpus)), part))
    assert [(sample.id, sample.instruction, sample.plain) for sample in samples] == [
        ("reasonedit/train/0003-0", "one", ""),
        ("reasonedit/train/0003-1", "two", "one"),
        ("reasonedit/train/0003-2", "three", "one"),
        ("reasonedit/train/0004-0", "one", ""),
    ]
    assert len({(sample.source, sample.target) for sample in samples}) == 1


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (edit(instruction="Remove it."), "found 'Remove it.'"),
        (edit(instruction=[]), "found []; write an object"),
        (edit(instruction=["a", None]), "found ['a', None]; write an object"),
        ("text", "found 'text'; write an object"),
        (edit(origin_img_path=None), "whose 'origin_img_path' is a str"),
        (edit(target_img_path="../a.png"), "found the path '../a.png'"),
    ],
)
def test_a_bad_record_becomes_one_bad_row(corpus: Path, record: object, message: str) -> None:
    with pytest.raises(rows.BadRow, match=re.escape(message)):
        list(reasonedit.read_edit(str(corpus), "reasonedit/train/0003", record))


HELD_OUT = world.WORLDS["unseen_seeds"]
SEEDS = HELD_OUT.seeds[:12]


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    writer.write_benchmark(tmp_path, SEEDS, 64, HELD_OUT)
    return tmp_path


def left_right(benchmark: Path) -> Path:
    return benchmark / "1-Left-Right"


def test_a_written_benchmark_is_read_back(benchmark: Path) -> None:
    samples = {sample.id: sample for sample in reasonedit.read(str(benchmark), "test")}
    assert len(samples) == 12
    for index, seed in enumerate(SEEDS):
        folder = list(writer.FOLDERS)[index % 6]
        edit = families.make_edit(HELD_OUT, seed, writer.FOLDERS[folder][0])
        sample = samples[f"reasonedit/test/{folder}/{1 + index // 6:05d}"]
        assert sample.instruction == edit.instruction and not sample.error and not sample.target
        drawn = [draw_scene(scene, 64).image for scene in (edit.source, edit.target)]
        np.testing.assert_array_equal(images.decode(sample.source), drawn[0])
        (box,), exact = sample.boxes, masks.box(difference(*drawn))
        assert np.abs(np.subtract(box, exact)).max() <= 2 / 64, "but for the noise of a JPEG mask"


def test_a_case_names_its_noun_and_files(benchmark: Path) -> None:
    cases = [case for _, case in reasonedit.find_cases(str(benchmark), Counter())]
    assert [case.category for case in cases] == [name for name in reasonedit.TEXTS for _ in range(2)]
    for case in cases:
        assert case.noun and "CLIP" not in case.noun + case.instruction
        assert masks.bright((benchmark / case.mask).read_bytes()).any() and (benchmark / case.picture).exists()


def test_lines_belong_to_the_pictures_in_the_order_of_their_names(benchmark: Path) -> None:
    folder = left_right(benchmark)
    for stem, renamed in (("00001", "b"), ("00002", "a")):
        (folder / f"{stem}.png").rename(folder / f"{renamed}.png")
    (folder / "Left_Right_text.txt").write_bytes(b"\xef\xbb\xbfFirst. CLIP: cat\r\nSecond.CLIP:a dog \r\n\r\n")
    (_, first), (_, second) = reasonedit.find_cases(str(benchmark), Counter())[:2]
    assert (first.picture, first.instruction, first.noun) == ("1-Left-Right/a.png", "First.", "cat")
    assert (second.picture, second.instruction, second.noun) == ("1-Left-Right/b.png", "Second.", "a dog")


@pytest.mark.parametrize(("lines", "count"), [("a CLIP: b\n", 1), ("a CLIP: b\n" * 3, 3), ("", 0)])
def test_more_or_fewer_lines_than_pictures_are_refused(benchmark: Path, lines: str, count: int) -> None:
    (left_right(benchmark) / "Left_Right_text.txt").write_text(lines)
    with pytest.raises(rows.CorpusError, match=rf"Left_Right_text.txt has {count} lines for 2 pictures"):
        reasonedit.read(str(benchmark), "test")


@pytest.mark.parametrize("line", [b"Remove the left cat.", b"CLIP: cat", b"Remove it. CLIP:", b"", b"R\xff CLIP: cat"])
def test_a_line_of_another_form_is_a_bad_row(benchmark: Path, line: bytes) -> None:
    (left_right(benchmark) / "Left_Right_text.txt").write_bytes(line + b"\nRemove it. CLIP: cat\n")
    bad, good = list(reasonedit.read(str(benchmark), "test"))[:2]
    assert not good.error and ": 1-Left-Right/Left_Right_text.txt: found " in bad.error
    assert bad.error.endswith("; write `instruction CLIP: noun` in UTF-8") and not bad.source


def test_a_case_can_be_edited_without_its_mask(benchmark: Path) -> None:
    (left_right(benchmark) / "00001_mask.jpg").unlink()
    sample = next(iter(reasonedit.read(str(benchmark), "test")))
    assert not sample.error and sample.source and not sample.boxes


def test_clutter_and_companions_beside_the_pictures_are_counted(benchmark: Path) -> None:
    expected = list(reasonedit.read(str(benchmark), "test"))
    for name in (".DS_Store", "._00001.png", "00001_labels.png", "00002.png~"):
        (left_right(benchmark) / name).write_bytes(b"no data")
    corpus = reasonedit.read(str(benchmark), "test")
    assert list(corpus) == expected
    assert corpus.skipped == {rows.CLUTTER_REASON: 3, rows.COMPANION_REASON: 1}
