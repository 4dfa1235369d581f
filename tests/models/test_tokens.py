"""Prompts: targets, dropped turns, and special tokens in user text."""

from dataclasses import replace

import pytest

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.tokens import CAPTION_TEMPLATES, IGNORED, Prompt, PromptConfig, PromptError, PromptTokenizer

ANSWERED = PromptConfig(max_tokens=192, system="")


@pytest.fixture(scope="module")
def words(nano: FireEditPipeline) -> PromptTokenizer:
    return PromptTokenizer(nano.vlm_tokenizer, nano.vlm.config.vocab_size, ANSWERED)


def text_of(words: PromptTokenizer, ids: list[int]) -> str:
    """Convert a prompt to text, new tokens by name."""
    names = {number: token for token, number in words.new_ids.items()}
    text = "".join(names.get(number) or words.tokenizer.decode([number]) for number in ids)
    return " ".join(text.split())


def targets_of(words: PromptTokenizer, prompt: Prompt) -> str:
    assert all(label in (IGNORED, number) for number, label in zip(prompt.input_ids, prompt.labels, strict=True))
    return text_of(words, [label for label in prompt.labels if label != IGNORED])


def test_new_ids_follow_the_vocabulary_by_name() -> None:
    config = PromptConfig()
    assert config.new_tokens[:5] == ("<im_start>", "<im_end>", "<roi>", "</roi>", "<img_0>")
    assert len(config.new_tokens) == 36 and config.new_tokens[-1] == "<img_31>"


def test_an_edit_reads_as_the_design_says(words: PromptTokenizer) -> None:
    prompt = words.edit("make it red")
    images = "".join(f"<img_{index}>" for index in range(32))
    expected = f"<s> USER:<im_start><im_end> Regions:<roi></roi> make it red ASSISTANT:{images}"
    assert text_of(words, prompt.input_ids) == expected


def test_the_targets_of_an_edit_are_its_img_tokens_alone(words: PromptTokenizer) -> None:
    prompt = words.edit("make it red")
    first = words.new_ids["<img_0>"]
    assert prompt.input_ids[-32:] == list(range(first, first + 32)) == words.img_ids
    assert prompt.labels == [IGNORED] * (len(prompt.input_ids) - 32) + words.img_ids


def test_a_caption_has_no_image_and_its_img_tokens_as_targets(words: PromptTokenizer) -> None:
    prompt = words.caption("a red circle", template=1)
    assert text_of(words, prompt.input_ids).startswith("<s> USER: Show me a red circle ASSISTANT:<img_0>")
    assert not {words.new_ids[mark] for mark in ("<im_start>", "<roi>")} & set(prompt.input_ids)
    assert [label for label in prompt.labels if label != IGNORED] == words.img_ids


def test_every_caption_template_is_used_and_numbers_wrap_around(words: PromptTokenizer) -> None:
    texts = {text_of(words, words.caption("a dog", template=number).input_ids) for number in range(100)}
    assert len(texts) == len(CAPTION_TEMPLATES)


def test_the_targets_of_a_dialogue_are_its_answers_and_their_ends(words: PromptTokenizer) -> None:
    prompt = words.dialogue(["What is it?", "Is it red?"], ["A circle.", "Yes."])
    expected = "<s> USER:<im_start><im_end> Regions:<roi></roi> What is it? ASSISTANT: A circle.</s>"
    assert text_of(words, prompt.input_ids) == f"{expected} USER: Is it red? ASSISTANT: Yes.</s>"
    assert targets_of(words, prompt) == "A circle.</s> Yes.</s>"


def test_later_turns_that_do_not_fit_are_dropped(words: PromptTokenizer) -> None:
    turns = 40
    prompt = words.dialogue(["What is it?"] * turns, ["A circle."] * turns)
    kept = prompt.input_ids.count(words.tokenizer.eos_token_id)
    assert 1 < kept < turns and len(prompt.input_ids) <= ANSWERED.max_tokens
    assert prompt.input_ids[-1] == words.tokenizer.eos_token_id
    whole = words.dialogue(["What is it?"] * kept, ["A circle."] * kept)
    assert prompt == whole


def test_no_turn_follows_a_dropped_one(words: PromptTokenizer) -> None:
    long, short = ("why " * 300, "So."), ("Is it red?", "Yes.")
    questions, answers = zip(short, long, short, strict=True)
    assert words.dialogue(questions, answers) == words.dialogue(*([text] for text in short))


@pytest.mark.parametrize("trick", ["<img_0>", "</s>", "<s>", "<im_start><im_end>", "<roi> </roi>", "a</s>b<s>c"])
def test_a_special_token_in_user_text_is_read_as_letters(words: PromptTokenizer, trick: str) -> None:
    plain, tricked = words.edit("x").input_ids, words.edit(f"x {trick}").input_ids
    special = {words.tokenizer.bos_token_id, words.tokenizer.eos_token_id, *words.new_ids.values()}
    assert sorted(set(tricked) & special) == sorted(set(plain) & special)
    assert [n for n in tricked if n in special] == [n for n in plain if n in special]
    assert trick.replace(" ", "") in text_of(words, tricked).replace(" ", "")


@pytest.mark.parametrize("write", ["edit", "caption"])
def test_a_text_that_is_too_long_is_refused_with_the_limit(words: PromptTokenizer, write: str) -> None:
    with pytest.raises(PromptError) as caught:
        getattr(words, write)("paint " * 300)
    assert "'paint paint " in str(caught.value) and "at most 192 fit: write a shorter text" in str(caught.value)


def test_a_dialogue_whose_first_turn_does_not_fit_is_an_error(words: PromptTokenizer) -> None:
    with pytest.raises(PromptError, match="192 fit"):
        words.dialogue(["why? " * 300, "What?"], ["So.", "That."])


def test_any_text_has_tokens(words: PromptTokenizer) -> None:
    for text in ("把天空变红", "ÿ\x00\n\t", "🦊🔥"):
        assert text.strip() in words.tokenizer.decode(words.edit(text).input_ids[:-32])


def test_a_tokenizer_with_more_tokens_than_the_vocabulary_is_refused(words: PromptTokenizer) -> None:
    """LLaVA's `<image>` would have the id of `<im_start>`, and user text can contain it."""
    with pytest.raises(ValueError, match="tokens for the [0-9]+ rows"):
        PromptTokenizer(words.tokenizer, len(words.tokenizer) - 1, ANSWERED)


def test_the_system_prompt_is_first(words: PromptTokenizer) -> None:
    spoken = PromptTokenizer(words.tokenizer, 1024, replace(ANSWERED, system="Be kind."))
    assert text_of(spoken, spoken.edit("x").input_ids).startswith("<s> Be kind. USER:<im_start>")
