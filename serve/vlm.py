"""Deployment of understanding: from percepts and a prompt to edit tokens."""

import hashlib
from collections.abc import Sequence

from fireedit.serve import preload  # noqa: F401

# isort: split

import torch
from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.tokens import Prompt, PromptTokenizer
from fireedit.serve import metrics
from fireedit.serve.detector import nbytes
from fireedit.serve.part import BatchedDeployment, BatchingConfig, WeightsConfig
from fireedit.serve.prompts import check_text
from fireedit.serve.schema import Tokens
from fireedit.serve.stage import Understood


class VLMDeployment(BatchedDeployment):
    """Vision-language model and Q-Former: the second deployment of an edit, and the largest."""

    stage = "vlm"
    components = FireEditPipeline.UNDERSTANDING

    def __init__(self, weights: WeightsConfig, batching: BatchingConfig):
        super().__init__(weights, batching)
        vlm = self.pipeline.vlm
        self.prompt_tokenizer = PromptTokenizer(self.pipeline.vlm_tokenizer, vlm.config.vocab_size, vlm.prompt_config)

    async def understand(self, key: str, tokens: Percepts, prompt: str, deadline: float, request_id: str) -> Understood:
        """Compute the edit tokens of one edit, in a batch with other requests.

        Args:
            key: content hash of the canvas, as `Seen` holds it.
            tokens: the percepts that the VLM reads.
            deadline: seconds of `time.time`.
        Raises:
            BadRequest: the prompt is too long; checked before batching, so that no other edit fails with it.
            DeadlineExceeded: the deadline passed first.
        """
        metrics.count_bytes("detector", self.stage, nbytes(tokens))
        read: Prompt = check_text(self.prompt_tokenizer.edit, "prompt", prompt)
        of_both = hashlib.blake2b(f"{key} {prompt}".encode(), digest_size=16).hexdigest()
        published, times = await self.submit(of_both, (tokens, prompt, key), deadline, request_id)
        output = self.prompt_tokenizer.config.img_tokens
        image = tokens.image_tokens.shape[1] + len(tokens.region_tokens[0])
        return Understood(
            published.tensor, Tokens(text=len(read.input_ids) - output, image=image, output=output), times
        )

    def example(self) -> tuple[Percepts, str, str]:
        config = self.pipeline.vlm.config
        image, regions = torch.zeros(1, 64, config.image_width), torch.zeros(8, config.width)
        percepts = Percepts(image, (regions,), (torch.zeros(8, 4),), (torch.zeros(8),), detail=())
        return percepts.map(lambda tensor: tensor.to(self.pipeline.vlm.dtype)), "make it red", "example"

    def run(self, requests: Sequence[tuple[Percepts, str, str]]) -> list[Tensor]:
        """Understand a batch of percepts and prompts; the third of each is the key of its picture and regions."""
        percepts, prompts, keys = zip(*requests, strict=True)
        edit_tokens = self.pipeline.understand(Percepts.join(percepts), prompts, keys).cpu()
        return [tokens.clone() for tokens in edit_tokens.split(1)]  # a slice would be pickled with the whole batch
