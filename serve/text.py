"""Deployment of the text encoder: from a prompt to edit tokens, where the UNet is InstructPix2Pix's."""

import hashlib
from collections.abc import Sequence

from fireedit.serve import preload  # noqa: F401

# isort: split

import torch
from torch import Tensor

from fireedit.models.text import text_states, tokenize_text
from fireedit.serve.part import BatchedDeployment
from fireedit.serve.schema import Tokens
from fireedit.serve.stage import Understood


class TextDeployment(BatchedDeployment):
    """CLIP's text encoder: the first deployment of an edit by `editor: instruct-pix2pix`."""

    stage = "text"
    components = ("text_encoder", "tokenizer")

    async def understand(self, prompt: str, deadline: float, request_id: str) -> Understood:
        """Encode one prompt of at most 77 tokens in a batch with those of other requests.

        Raises:
            DeadlineExceeded: the deadline, in seconds of `time.time`, passed first.
        """
        key = hashlib.blake2b(prompt.encode(), digest_size=16).hexdigest()
        published, times = await self.submit(key, prompt, deadline, request_id)
        length = len(self.pipeline.tokenizer(prompt).input_ids)
        return Understood(published.tensor, Tokens(text=length), times)

    def example(self) -> str:
        return "make it red"

    @torch.no_grad()
    def run(self, requests: Sequence[str]) -> list[Tensor]:
        """Encode a batch of prompts to states [1, 77, W] each, on the CPU."""
        encoder = self.pipeline.text_encoder
        ids = tokenize_text(self.pipeline.tokenizer, list(requests), encoder.config.max_position_embeddings)
        states = text_states(encoder, ids.to(encoder.device)).cpu()
        return [tokens.clone() for tokens in states.split(1)]  # a slice would be pickled with the whole batch
