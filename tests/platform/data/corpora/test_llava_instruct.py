import json
import re
from pathlib import Path
from typing import Any

import pytest

from fireedit.platform.data.corpora import llava_instruct, rows
from fireedit.platform.scenes import dialogue, families, world
from fireedit.platform.scenes.writers import llava_instruct as writer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    writer.write(folder, range(8), 32, world.TRAIN)
    return folder


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)]


def records_of(corpus: Path) -> list[dict[str, Any]]:
    return json.loads((corpus / "llava_instruct_150k.json").read_text())


def test_a_written_corpus_is_read_back(corpus: Path) -> None:
    samples = list(llava_instruct.read(f"file://{corpus}"))
    assert len(samples) == len(records_of(corpus)) == 8
    for index, sample in enumerate(samples):
        scene = families.make_edit(world.TRAIN, index).source
        turns_of_scene = dialogue.dialogue(world.TRAIN, scene, index)[: writer.MOST_TURNS]
        assert list(zip(sample.questions, sample.answers, strict=True)) == turns_of_scene
        assert sample.source == (corpus / "train2017" / f"{index:012d}.jpg").read_bytes()
        assert sample.id == f"llava_instruct/train/{index:06d}" and sample.task == "vqa" and not sample.error


def test_the_picture_stands_before_and_after_the_question_alternately(corpus: Path) -> None:
    first = [record["conversations"][0]["value"] for record in records_of(corpus)]
    assert [text.startswith("<image>\n") for text in first] == [True, False] * 4
    assert [text.endswith("\n<image>") for text in first] == [False, True] * 4


def test_the_image_token_is_taken_out_at_every_place() -> None:
    questions, answers = llava_instruct.split_turns(
        turns("<image>\nWhat is it?", "A cat.", "Sure?\n<image>", "Yes.", "Why <image>so?", "It purrs.")
    )
    assert questions == ("What is it?", "Sure?", "Why so?") and answers == ("A cat.", "Yes.", "It purrs.")


def test_conversations_without_a_picture_are_skipped_and_counted(tmp_path: Path) -> None:
    writer.write(tmp_path, range(3), 16, world.TRAIN)
    file = tmp_path / "llava_instruct_150k.json"
    records = json.loads(file.read_text())
    del records[1]["image"]
    file.write_text(json.dumps(records))
    corpus = llava_instruct.read(str(tmp_path))
    assert [sample.id[-6:] for sample in corpus] == ["000000", "000002"]
    assert corpus.skipped == {llava_instruct.NO_PICTURE: 1}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": "../a.jpg", "conversations": turns("q", "a")}, "write one relative to the corpus's folder"),
        ({"conversations": turns("q", "a")}, "found None; write an object whose 'image' is a str"),
        ({"image": "a.jpg", "conversations": turns("q")}, "found the speakers human; write human, gpt in turn"),
        ({"image": "a.jpg", "conversations": []}, r"found the speakers (none)"),
        (
            {"image": "a.jpg", "conversations": [{"from": "human"}, {"from": "gpt", "value": "a"}]},
            "found None; write an object whose 'value' is a str",
        ),
        ("text", "found 'text'"),
    ],
)
def test_bad_records_become_bad_rows(corpus: Path, record: object, message: str) -> None:
    with pytest.raises(rows.BadRow, match=re.escape(message)):
        next(llava_instruct.read_dialogue(str(corpus), "llava_instruct/train/000007", record))


def test_a_folder_that_is_not_llava_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rows.CorpusError, match="llava_instruct_150k.json is missing"):
        llava_instruct.read(str(tmp_path))
    (tmp_path / "llava_instruct_150k.json").write_text("{}")
    with pytest.raises(rows.CorpusError, match="found a dict; write a list"):
        llava_instruct.read(str(tmp_path))
    (tmp_path / "llava_instruct_150k.json").write_text("[]")
    with pytest.raises(rows.CorpusError, match="found an empty list"):
        llava_instruct.read(str(tmp_path))
    (tmp_path / "llava_instruct_150k.json").write_text(json.dumps([{"id": "1"}]))
    with pytest.raises(rows.CorpusError, match="train2017 is missing"):
        llava_instruct.read(str(tmp_path))
