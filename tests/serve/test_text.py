"""Deployment of the text encoder, without Ray around it."""

import pickle
from pathlib import Path
from typing import Any

import torch

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.text import text_states, tokenize_text
from fireedit.serve.part import BatchingConfig, WeightsConfig
from fireedit.serve.text import TextDeployment


def test_it_encodes_prompts_as_the_pipeline_does(weights: Path, pipeline: FireEditPipeline) -> None:
    text = TextDeployment(WeightsConfig(weights=str(weights), editor="instruct-pix2pix"), BatchingConfig())
    loaded = {name for name, part in text.pipeline.components.items() if part is not None}
    assert loaded == {"text_encoder", "tokenizer"} and text.request_seconds > 0
    prompts = ["make it red", "remove the cat " * 40]
    batch = text.run(prompts)
    for prompt, tokens in zip(prompts, batch, strict=True):
        with torch.no_grad():
            expected = text_states(pipeline.text_encoder, tokenize_text(pipeline.tokenizer, [prompt], 77))
        assert tokens.shape == (1, 77, 96) and torch.allclose(tokens, expected, atol=1e-5)
        assert len(pickle.dumps(tokens)) < 1.2 * tokens.nbytes, "without the rest of its batch"
    (alone,) = text.run(prompts[:1])
    assert alone.shape == (1, 77, 96)


def test_a_request_that_fails_takes_none_of_its_batch_along(weights: Path) -> None:
    text = TextDeployment(WeightsConfig(weights=str(weights)), BatchingConfig())
    broken: Any = None
    first, failed, last = text.run_isolated(["make it red", broken, "add snow"])
    assert first.shape == last.shape == (1, 77, 96) and isinstance(failed, Exception)
