"""Beginnings of prompts that the LLM has read: system prompt, picture and regions, kept for further edits of a picture.

An instruction then costs the LLM its own tokens and the [IMG] tokens alone. States are the same within rounding: the
sums of attention are of other lengths.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fireedit.models.model import FireEdit, Percepts
from fireedit.models.tokens import PADDING, REGIONS_END
from fireedit.models.vlm import VLM, Prefix


class Prefixes:
    """Prefixes of the pictures that were edited last.

    They are those of one LLM in one state: another, one that was moved or cast, and one whose weights or adapters have
    changed drops them. A change of a weight's `.data` in place, or an assignment to `.data` that keeps precision and
    device, goes unseen, but for the merge of an adapter. So does a change in place of a weight that was made under
    `torch.inference_mode`: torch counts no versions of it.

    Args:
        most: pictures kept; at the paper's size one takes 0.2 GB in bfloat16, half a megabyte a token.
    """

    def __init__(self, most: int):
        self.most = most
        self.hits = 0
        """Prompts so far whose picture was kept."""
        self._kept = OrderedDict[str, Prefix]()
        self._state = list[Any]()

    def clear(self) -> None:
        """Drop all prefixes, and their memory."""
        self._kept.clear()

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
        Raises:
            ValueError: diffusers offloads the VLM.
        """
        self._follow(model.vlm)
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

    def _follow(self, vlm: VLM) -> None:
        """Drop the prefixes of another LLM, or of this one in another state.

        Raises:
            ValueError: the VLM has a hook of offloading, which `begin` and `resume` do not run.
        """
        if hasattr(vlm, "_hf_hook"):
            raise ValueError(
                "prefixes: found the VLM offloaded by diffusers; write prefixes=0, or pipe.to('cuda') instead"
            )
        if (state := _state(vlm)) != self._state:
            self.clear()
            self._state = state

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


def _state(vlm: VLM) -> list[Any]:
    """Tell one state of a VLM from another, in 1 to 2 ms at the paper's size, without reading its weights."""
    state: list[Any] = [id(vlm)]
    for module in vlm.modules():
        for weight in module._parameters.values():
            if weight is not None:
                version = 0 if weight.is_inference() else weight._version
                state.append((id(weight), version, weight.dtype, weight.device))
        if isinstance(module, BaseTunerLayer):
            scales = tuple(getattr(module, "scaling", {}).items())
            state.append(
                (tuple(module.active_adapters), tuple(module.merged_adapters), module.disable_adapters, scales)
            )
    return state


def _opening(input_ids: Tensor, vlm: VLM) -> int:
    """Count the tokens of a prompt up to the end of its regions, equal for all instructions."""
    end = vlm.config.vocab_size + vlm.prompt_config.new_tokens.index(REGIONS_END)
    return int((input_ids == end).nonzero()[0]) + 1
