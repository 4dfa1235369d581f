"""Sample is the one row contract: shards store its fields, and the model's processor reads no others."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from fireedit.models.model import NANO, preset
from fireedit.models.processor import Processor
from fireedit.platform.data.sample import NO_IMAGE, STORED_FIELDS, Sample
from fireedit.platform.images import EncodedImage
from tests.factories import caption_sample, edit_sample, vqa_sample

SIZES = preset("nano")
ENCODINGS = {
    "source_moments": np.zeros(SIZES.vae.moments_shape, np.float16),
    "target_moments": np.zeros(SIZES.vae.moments_shape, np.float16),
    "text_states": np.zeros((SIZES.text.tokens, SIZES.text.width), np.float16),
}
"""Arrays that frozen encoders store beside a sample."""


class Recorder(dict[str, Any]):
    """Sample by field that records the names which are read."""

    def __init__(self, fields: dict[str, Any]):
        super().__init__(fields)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


@pytest.mark.parametrize("encoded", [False, True], ids=["pixels", "encoded"])
def test_the_processor_reads_only_fields_of_a_sample(encoded: bool) -> None:
    tokenizers = [AutoTokenizer.from_pretrained(NANO / name) for name in ("vlm_tokenizer", "tokenizer")]
    processor = Processor(*tokenizers, config=SIZES, encoded=encoded)
    names: set[str] = set()
    for fields in (edit_sample(0), caption_sample(0), vqa_sample(0)):
        recorder = Recorder(fields | ENCODINGS)
        processor.row(recorder)
        names |= recorder.names
    assert {"task", "instruction", "questions", "source"} <= names
    assert names <= {field.name for field in dataclasses.fields(Sample)} | (set(ENCODINGS) if encoded else set())


def test_a_row_gives_back_the_sample() -> None:
    sample = Sample(
        id="a/1",
        corpus="a",
        task="vqa",
        questions=("who?", "where?"),
        answers=("he", "there"),
        source=EncodedImage(b"jpeg"),
        boxes=((0.0, 0.25, 0.5, 1.0),),
    )
    assert Sample.of_row(sample.row()) == sample
    lists = sample.row() | {"questions": list(sample.questions), "boxes": [list(box) for box in sample.boxes]}
    assert Sample.of_row(lists) == sample


def test_errors_are_not_stored() -> None:
    bad = Sample(id="a/1", corpus="a", task="edit", error="no target")
    assert list(bad.row()) == list(STORED_FIELDS) and not {"error", "read_from"} & {*bad.row()}
    assert Sample.of_row(bad.row()) == Sample(id="a/1", corpus="a", task="edit", source=NO_IMAGE)
