"""Understanding: from what was seen and what was asked for to what is to be done."""

from collections.abc import Sequence
from functools import partial

from ray import serve
from torch import Tensor

from fireedit.models.model import Percepts
from fireedit.models.pipeline import FireEditPipeline
from fireedit.models.tokens import PromptError, PromptTokenizer
from fireedit.serve.part import Part, WeightsConfig, tune
from fireedit.serve.schema import BadRequest


class VLM(Part):
    """Vision-language model and Q-Former; the second deployment, and the largest."""

    def __init__(self, weights: WeightsConfig, max_batch_size: int, batch_wait_s: float):
        super().__init__(FireEditPipeline.UNDERSTANDING, weights)
        vlm = self.pipeline.vlm
        self.words = PromptTokenizer(self.pipeline.vlm_tokenizer, vlm.config.vocab_size, vlm.prompt_config)
        tune(self._understand, max_batch_size, batch_wait_s)

    async def understand(self, percepts: Percepts, prompt: str) -> Tensor:
        """What to do in one picture: edit tokens [1, 77, W] on the CPU.

        Raises:
            BadRequest: the prompt is too long; checked here, so that nobody else's edit fails with it.
        """
        try:
            self.words.edit(prompt)
        except PromptError as error:
            raise BadRequest(f"prompt: {error}", "prompt", "string_above_max_length") from None
        await self.free.wait()
        return await self._understand((percepts, prompt))

    @serve.batch
    async def _understand(self, asked: list[tuple[Percepts, str]]) -> list[Tensor]:
        return await self.work(partial(self._read, asked))

    def _read(self, asked: Sequence[tuple[Percepts, str]]) -> list[Tensor]:
        percepts, prompts = zip(*asked, strict=True)
        edit_tokens = self.pipeline.understand(Percepts.join(percepts), prompts).cpu()
        return [one.clone() for one in edit_tokens.split(1)]
