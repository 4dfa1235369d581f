"""CLIP's text encoder, frozen: target of the edit tokens in stage 1, unconditional prompt in guidance."""

from dataclasses import dataclass

from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of CLIP-L's text encoder."""

    vocab_size: int = 49408
    width: int = 768
    mlp_width: int = 3072
    layers: int = 12
    heads: int = 12
    tokens: int = 77
    """Length of every text, after padding."""
    bos_token_id: int = 49406
    eos_token_id: int = 49407


def build_text_encoder(config: TextConfig) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.tokens,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.eos_token_id,
        )
    )


def tokenize_text(tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int) -> Tensor:
    """Tokenize to ids [B, length], truncated and padded as in Stable Diffusion."""
    padded = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return padded.input_ids


def text_states(text_encoder: CLIPTextModel, input_ids: Tensor) -> Tensor:
    """Encode ids [B, T] to states [B, T, width] after the final LayerNorm, padding included."""
    return text_encoder(input_ids).last_hidden_state
