from pathlib import Path

import numpy as np
import pytest

from fireedit.platform import images
from fireedit.platform.data.corpora import reasonedit, rows
from fireedit.platform.scenes import world
from fireedit.platform.scenes.render import Renderer
from fireedit.platform.scenes.writers import reasonedit as writer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reasonedit")
    writer.write(folder, range(50, 58), 32, world.TRAIN)
    return folder


def edit(**changed: object) -> dict:
    paths = {"origin_img_path": "images/0000_origin.png", "target_img_path": "images/0000_target.png"}
    return paths | {"instruction": ["Remove it."]} | changed


def test_our_writer_is_read_back(corpus: Path) -> None:
    samples = iter(reasonedit.read(str(corpus)))
    for index in range(8):
        made = writer.hard_edit(world.TRAIN, 50 + index)
        for place, text in enumerate(dict.fromkeys((made.plain, made.instruction))):
            sample = next(samples)
            assert sample.id == f"reasonedit/train/{index:04d}-{place}" and sample.task == "edit" and not sample.error
            assert (sample.instruction, sample.plain) == (text, made.plain if place else "")
            for data, scene in ((sample.source, made.source), (sample.target, made.target)):
                np.testing.assert_array_equal(images.decode(data), Renderer().draw(scene, 32).image)
    assert next(samples, None) is None


def test_every_instruction_that_differs_becomes_a_row_and_the_first_is_the_others_plain_form(corpus: Path) -> None:
    part = [("0003", edit(instruction=["one", "two", " one", "three"])), ("0004", edit(instruction=["one"]))]
    samples = list(reasonedit.read_edits(str(corpus), part))
    assert [(sample.id, sample.instruction, sample.plain) for sample in samples] == [
        ("reasonedit/train/0003-0", "one", ""),
        ("reasonedit/train/0003-1", "two", "one"),
        ("reasonedit/train/0003-2", "three", "one"),
        ("reasonedit/train/0004-0", "one", ""),
    ]
    assert len({(sample.source, sample.target) for sample in samples}) == 1


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (edit(instruction="Remove it."), "found 'Remove it.'; write an object whose 'instruction' is a list of texts"),
        (edit(instruction=[]), "found []; write an object"),
        (edit(instruction=["a", None]), "found ['a', None]; write an object"),
        ("text", "found 'text'; write an object"),
        (edit(instruction=["a", "b"], target_img_path="images/none.png"), "images/none.png: no such file"),
        (edit(origin_img_path=None), "found None; write the path of a picture as 'origin_img_path'"),
        (edit(origin_img_path="images/none.png"), "images/none.png: no such file"),
        (edit(target_img_path="images/cut.png"), "images/cut.png: found a damaged PNG"),
        (edit(target_img_path="/etc/a.png"), "found the path '/etc/a.png'; write one relative to the corpus's folder"),
        (edit(target_img_path="../a.png"), "found the path '../a.png'"),
    ],
)
def test_a_bad_record_becomes_one_bad_row(corpus: Path, record: object, found: str) -> None:
    (corpus / "images" / "cut.png").write_bytes((corpus / "images" / "0000_origin.png").read_bytes()[:-40])
    (sample,) = reasonedit.read_edits(str(corpus), [("0003", record)])
    assert sample.error.startswith("SyntheticData_info_new.json, edit '0003': ") and found in sample.error
    assert sample.id == "reasonedit/train/0003" and not sample.source and not sample.target


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "is not JSON: .*; fetch it again"),
        ("[]", "found a list; write an object of edits keyed '0000', '0001', ..."),
        ("{}", "found an empty object"),
        ('{"0000": {}, "0000": {}}', "the key '0000' stands twice; fetch it again"),
    ],
)
def test_a_file_that_is_not_reasonedits_is_refused(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "SyntheticData_info_new.json").write_text(content)
    with pytest.raises(rows.CorpusError, match=found):
        reasonedit.read(str(tmp_path))
