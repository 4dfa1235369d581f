"""Deployment of understanding: from percepts and a prompt to edit tokens."""

from collections.abc import Sequence
from functools import partial

from ray import serve
from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.tokens import PromptError, PromptTokenizer
from fireedit.serve.part import ModelDeployment, WeightsConfig, set_batching
from fireedit.serve.schema import BadRequest


class VLMDeployment(ModelDeployment):
    """Vision-language model and Q-Former: the second deployment of an edit, and the largest."""

    def __init__(self, weights: WeightsConfig, max_batch_size: int, batch_wait_s: float):
        super().__init__(FireEditPipeline.UNDERSTANDING, weights)
        vlm = self.pipeline.vlm
        self.prompt_tokenizer = PromptTokenizer(self.pipeline.vlm_tokenizer, vlm.config.vocab_size, vlm.prompt_config)
        set_batching(self._understand, max_batch_size, batch_wait_s)

    async def understand(self, percepts: Percepts, prompt: str) -> Tensor:
        """Compute the edit tokens [1, 77, W] of one edit, on the CPU.

        Raises:
            BadRequest: the prompt is too long; checked before batching, so that no other edit fails with it.
        """
        try:
            self.prompt_tokenizer.edit(prompt)
        except PromptError as error:
            raise BadRequest(f"prompt: {error}", "prompt", "string_above_max_length") from None
        await self.idle.wait()
        return await self._understand((percepts, prompt))

    @serve.batch
    async def _understand(self, requests: list[tuple[Percepts, str]]) -> list[Tensor]:
        return await self.run(partial(self._understand_batch, requests))

    def _understand_batch(self, requests: Sequence[tuple[Percepts, str]]) -> list[Tensor]:
        percepts, prompts = zip(*requests, strict=True)
        edit_tokens = self.pipeline.understand(Percepts.join(percepts), prompts).cpu()
        return [tokens.clone() for tokens in edit_tokens.split(1)]  # a slice would be pickled with the whole batch
