"""Beginnings of prompts that the LLM has read: system prompt, picture and regions, kept for further edits of a picture.

An instruction then costs the LLM its own tokens and the [IMG] tokens alone. States are the same within rounding: the
sums of attention are of other lengths.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fireedit.models.model import FireEdit, Percepts
from fireedit.models.tokens import PADDING, REGIONS_END
from fireedit.models.vlm import VLM, Prefix


class Prefixes:
    """Prefixes of the pictures that were edited last.

    Args:
        most: pictures kept; at the paper's size one takes 0.2 GB in bfloat16, half a megabyte a token.
    """

    def __init__(self, most: int):
        self.most = most
        self.hits = 0
        """Prompts so far whose picture was kept."""
        self._kept = OrderedDict[str, Prefix]()

    def understand(
        self, model: FireEdit, percepts: Percepts, input_ids: Sequence[Tensor], keys: Sequence[str] | None = None
    ) -> Tensor:
        """Compute edit tokens as `FireEdit.understand`, in one pass for the prompts on each picture.

        Args:
            percepts: of B pictures.
            input_ids: B prompts that `PromptTokenizer.edit` built, 1-dimensional, on the CPU.
            keys: contents of the pictures and their regions; None computes them from `percepts`.
        Returns:
            [B, 77, 768].
        """
        pictures = percepts.split()
        keys = [percepts_key(each) for each in pictures] if keys is None else keys
        states = dict[int, Tensor]()
        for key in dict.fromkeys(keys):
            places = [place for place, each in enumerate(keys) if each == key]
            length = _opening(input_ids[places[0]], model.vlm)
            prefix = self._prefix(key, model.vlm, pictures[places[0]], input_ids[places[0]][:length])
            rest = [input_ids[place][length:] for place in places]
            resumed = model.vlm.resume(prefix, pad_sequence(rest, batch_first=True, padding_value=PADDING))
            states |= zip(places, resumed, strict=True)
        return model.qformer(torch.stack([states[place] for place in range(len(keys))]))

    def _prefix(self, key: str, vlm: VLM, picture: Percepts, opening: Tensor) -> Prefix:
        found = self._kept.pop(key, None)
        self.hits += found is not None
        self._kept[key] = found or vlm.begin(opening[None], picture.image_tokens, picture.region_tokens)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return self._kept[key]


def percepts_key(picture: Percepts) -> str:
    """Hash what the VLM reads of one picture."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (picture.image_tokens, *picture.region_tokens):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _opening(input_ids: Tensor, vlm: VLM) -> int:
    """Count the tokens of a prompt up to the end of its regions, equal for all instructions."""
    end = vlm.config.vocab_size + vlm.prompt_config.new_tokens.index(REGIONS_END)
    return int((input_ids == end).nonzero()[0]) + 1
