"""CLIP's text encoder: states after the final norm, padding included, at Stable Diffusion's length."""

import torch

from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.text import text_states, tokenize_text


def test_texts_are_cut_and_padded_to_one_length(nano: FireEditPipeline) -> None:
    ids = tokenize_text(nano.tokenizer, ["", "a red circle", "word " * 200], 77)
    assert ids.shape == (3, 77)
    assert ids[:, 0].tolist() == [0, 0, 0], "each begins with <|startoftext|>"
    assert ids[0, 1:].tolist() == [1] * 76
    assert ids[2, -1] == 1, "a text that is cut still ends"


@torch.no_grad()
def test_states_are_normed_and_cover_the_padding(nano: FireEditPipeline) -> None:
    states = text_states(nano.text_encoder, tokenize_text(nano.tokenizer, ["", "a red circle"], 77))
    assert states.shape == (2, 77, 96)
    output = nano.text_encoder(tokenize_text(nano.tokenizer, ["a red circle"], 77), output_hidden_states=True)
    wanted = nano.text_encoder.final_layer_norm(output.hidden_states[-1])
    assert torch.allclose(states[1:], wanted, atol=1e-5)
    assert not torch.equal(states[0, 70], states[1, 70]), "padding behind other words has other states"
