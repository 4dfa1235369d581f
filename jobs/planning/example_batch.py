"""Batch of typical sizes, made by the real processor, on which a training step is measured."""

from dataclasses import replace

import numpy as np
from transformers import AutoTokenizer

from fireedit.jobs.training.recipe import TrainRecipe
from fireedit.models.model import NANO, FireEditConfig
from fireedit.models.processor import Batch, InputRow, Processor
from fireedit.models.tokens import PADDING
from fireedit.platform.data.ingest import stacked

TEXT_TOKENS = 114
"""Tokens of a prompt beside those of image and regions, the [IMG] tokens among them. At the paper's size a prompt of
256 + 100 + 114 tokens is 470 long: an edit's, with an instruction of some thirty words."""
WORD = "red "


def example_batch(recipe: TrainRecipe, samples: int, text_tokens: int = TEXT_TOKENS) -> Batch:
    """Build a batch of equal black edits, or captions in stage 1, for a step of the recipe.

    Args:
        text_tokens: length of each prompt, at most what the recipe's model takes.
    """
    plain = replace(recipe.model.vlm.prompt, system="")  # nano's tokenizer cuts Vicuna's opening into many tokens
    sizes = replace(recipe.model, vlm=replace(recipe.model.vlm, prompt=plain))
    vlm_tokenizer, tokenizer = (AutoTokenizer.from_pretrained(NANO / name) for name in ("vlm_tokenizer", "tokenizer"))
    processor = Processor(vlm_tokenizer, tokenizer, sizes, recipe.ingest.encoded)
    task = "caption" if recipe.stage == 1 else "edit"

    def row(words: int) -> InputRow:
        return processor.row(_sample(task, WORD * words, sizes))

    def length(words: int) -> int:
        return int(np.count_nonzero(row(words)["input_ids"] != PADDING))

    wanted = min(text_tokens, plain.max_tokens)
    words = max(1, 1 + (wanted - length(1)) // (length(2) - length(1)))
    return processor.batch(stacked([row(words)] * samples))


def _sample(task: str, text: str, sizes: FireEditConfig) -> dict[str, object]:
    black = np.zeros((8, 8, 3), np.uint8)
    moments = np.zeros(sizes.vae.moments_shape, np.float16)
    return {
        "id": "example",
        "corpus": "example",
        "task": task,
        "instruction": text,
        "source": black,
        "target": black,
        "source_moments": moments,
        "target_moments": moments,
        "text_states": np.zeros((sizes.text.tokens, sizes.text.width), np.float16),
    }
