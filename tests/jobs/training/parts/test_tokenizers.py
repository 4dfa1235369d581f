"""Tokenizers of nano: any text has tokens, ids are where the model's sizes expect them."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from fireedit.jobs.training.parts.tokenizers import train_tokenizers
from fireedit.models.model import NANO, preset


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizers")
    train_tokenizers(out, scenes=50)
    return out


@pytest.mark.parametrize("shipped", [False, True])
def test_any_text_is_read_back_and_no_id_is_beyond_the_tables(trained: Path, shipped: bool) -> None:
    folder, sizes = NANO if shipped else trained, preset("nano")
    for name, rows in (("vlm_tokenizer", sizes.vlm.vocab_size), ("tokenizer", sizes.text.vocab_size)):
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        assert len(tokenizer) <= rows
        for text in ("Remove the dog.", "Füge ☃ hinzu!", "日本"):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.decode(ids).strip() == text and max(ids) < rows


def test_the_text_encoder_gets_its_marks(trained: Path) -> None:
    sizes = preset("nano").text
    tokenizer = AutoTokenizer.from_pretrained(trained / "tokenizer")
    ids = tokenizer("a dog", padding="max_length", truncation=True, max_length=sizes.tokens).input_ids
    assert (ids[0], ids[-1], len(ids)) == (sizes.bos_token_id, sizes.eos_token_id, 77)


def test_sentences_of_the_scenes_are_short_in_tokens() -> None:
    tokenizer = AutoTokenizer.from_pretrained(NANO / "vlm_tokenizer")
    assert len(tokenizer("Remove the dog on the left.", add_special_tokens=False).input_ids) <= 8
