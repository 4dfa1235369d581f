"""Tokenizers at nano size: byte-level BPE on the texts of the scenes."""

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from fireedit.models.model import preset
from fireedit.models.tokens import CAPTION_TEMPLATES
from fireedit.platform.data.corpora import masks
from fireedit.platform.scenes import dialogue, language
from fireedit.platform.scenes.families import make_edit
from fireedit.platform.scenes.referring import make_reference
from fireedit.platform.scenes.world import TRAIN


def train_tokenizers(out: Path, scenes: int = 10_000) -> dict[str, int]:
    """Train byte-level BPE for LLM and text encoder: it encodes any text, and texts of the scenes in few tokens.

    Returns:
        the size of each vocabulary.
    """
    sizes, texts = preset("nano"), list(scene_texts(scenes))
    vlm = _train(texts, sizes.vlm.vocab_size, begin="<s>", end="</s>", wrapped=False)
    vlm.save_pretrained(out / "vlm_tokenizer")
    clip = _train(texts, sizes.text.vocab_size, begin="<|startoftext|>", end="<|endoftext|>", wrapped=True)
    clip.model_max_length = sizes.text.tokens
    clip.save_pretrained(out / "tokenizer")
    return {"vlm_tokenizer": len(vlm), "tokenizer": len(clip)}


def scene_texts(scenes: int) -> Iterator[str]:
    """Yield the texts of the training corpora about `scenes` scenes, in the templates of the prompts."""
    for seed in range(scenes):
        rng = random.Random(seed)
        edit = make_edit(TRAIN, seed)
        yield edit.instruction
        yield CAPTION_TEMPLATES[seed % len(CAPTION_TEMPLATES)].format(caption=language.caption(edit.source, seed))
        yield masks.request(rng, rng.choice(edit.source.objects).name)[0]
        yield masks.request(rng, make_reference(TRAIN, seed).expression)[0]
        for question, answer in dialogue.dialogue(TRAIN, edit.source, seed):
            yield f"USER: Regions: {question} ASSISTANT: {answer}"


def _train(texts: list[str], size: int, begin: str, end: str, wrapped: bool) -> PreTrainedTokenizerFast:
    """Train a tokenizer whose ids 0 and 1 are `begin` and `end`; `wrapped` adds them to every text, as CLIP does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[begin, end], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if wrapped:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A {end}", special_tokens=[(begin, 0), (end, 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token=end)
