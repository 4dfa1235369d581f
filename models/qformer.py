"""Q-Former: 32 [IMG] states e to 77 edit tokens e_t, which replace CLIP's text states in the UNet."""

from dataclasses import dataclass

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel

from fireedit.models.layers.component import Component


@dataclass(frozen=True, kw_only=True)
class QFormerConfig:
    queries: int = 77
    """Edit tokens; as many as CLIP's text states, so that the UNet reads either."""
    width: int = 768
    layers: int = 6
    heads: int = 12
    mlp_width: int = 3072
    cross_every: int = 2
    """Period of the layers that cross-attend to the [IMG] states, the first layer included."""
    dropout: float = 0.1
    """BLIP-2's value."""
    input_width: int = 4096
    """Channels of the [IMG] states."""


class QFormer(Component, ModelMixin):
    """BLIP-2's query transformer, its text branch left out, trained from random weights.

    Source: SmartEdit (arXiv 2312.06739), whose Q-Former FireEdit keeps.
    """

    config_class = QFormerConfig

    def __init__(self, config: QFormerConfig):
        super().__init__(config)
        self.query_tokens = nn.Parameter(0.02 * torch.randn(1, config.queries, config.width))
        self.blip2 = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp_width,
                cross_attention_frequency=config.cross_every,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
                encoder_hidden_size=config.input_width,
                use_qformer_text_input=False,
            )
        )

    def forward(self, img_states: Tensor) -> Tensor:
        """Map [IMG] states [B, 32, input_width] to edit tokens [B, queries, width]."""
        queries = self.query_tokens.expand(len(img_states), -1, -1)
        return self.blip2(query_embeds=queries, encoder_hidden_states=img_states).last_hidden_state


def query_diversity(edit_tokens: Tensor) -> Tensor:
    """Compute 1 - the mean cosine between the edit tokens of each edit, [B]; 0 if the tokens have collapsed."""
    directions = nn.functional.normalize(edit_tokens.float(), dim=-1)
    count = directions.shape[1]
    cosines = directions @ directions.transpose(1, 2)
    return 1 - (cosines.sum((1, 2)) - count) / (count * (count - 1))
