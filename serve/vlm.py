"""Deployment of understanding: from percepts and a prompt to edit tokens."""

from collections.abc import Sequence

from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.tokens import PromptError, PromptTokenizer
from fireedit.serve.part import ModelDeployment, WeightsConfig
from fireedit.serve.schema import BadRequest


class VLMDeployment(ModelDeployment):
    """Vision-language model and Q-Former: the second deployment of an edit, and the largest."""

    components = FireEditPipeline.UNDERSTANDING

    def __init__(self, weights: WeightsConfig, max_batch_size: int, batch_wait_s: float):
        super().__init__(weights, max_batch_size, batch_wait_s)
        vlm = self.pipeline.vlm
        self.prompt_tokenizer = PromptTokenizer(self.pipeline.vlm_tokenizer, vlm.config.vocab_size, vlm.prompt_config)

    async def understand(self, percepts: Percepts, prompt: str) -> Tensor:
        """Compute the edit tokens [1, 77, W] of one edit, on the CPU.

        Raises:
            BadRequest: the prompt is too long; checked before batching, so that no other edit fails with it.
        """
        try:
            self.prompt_tokenizer.edit(prompt)
        except PromptError as error:
            raise BadRequest(f"prompt: {error}", "prompt", "string_above_max_length") from None
        return await self.submit((percepts, prompt))

    def run(self, requests: Sequence[tuple[Percepts, str]]) -> list[Tensor]:
        """Understand a batch of percepts and prompts."""
        percepts, prompts = zip(*requests, strict=True)
        edit_tokens = self.pipeline.understand(Percepts.join(percepts), prompts).cpu()
        return [tokens.clone() for tokens in edit_tokens.split(1)]  # a slice would be pickled with the whole batch
