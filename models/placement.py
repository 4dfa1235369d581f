"""Places of the stages: perceiving, understanding and painting may each have a device of their own."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from fireedit.models.prefix import Prefixes

OPTIONAL = ("detector", "region_encoder", "hvca", "tati")
"""Components that an ablation edits without."""
StageName = Literal["perceive", "understand", "paint"]


class StageDevices:
    """Devices of a pipeline's stages, found where their weights are.

    The tensors between the stages are a few megabytes for each picture.
    """

    PERCEIVING: ClassVar[Sequence[str]]
    UNDERSTANDING: ClassVar[Sequence[str]]
    PAINTING: ClassVar[Sequence[str]]
    prefixes: Prefixes | None = None
    """Beginnings of prompts that the LLM has read."""

    @classmethod
    def check_parts(cls, parts: Sequence[str] | None) -> None:
        """Raise ValueError unless `parts` is None or a list of names of components."""
        known = (*cls.PERCEIVING, *cls.UNDERSTANDING, *cls.PAINTING)
        if isinstance(parts, str) or not set(parts or ()) <= set(known):
            raise ValueError(f"parts is {parts!r}; write a list of some of {', '.join(known)}")

    def require_parts(self) -> None:
        """Raise ValueError unless the components are here that an edit needs."""
        needed = [name for name in (*self.PERCEIVING, *self.UNDERSTANDING, *self.PAINTING) if name not in OPTIONAL]
        if missing := [name for name in needed if getattr(self, name, None) is None]:
            raise ValueError(
                f"this pipeline has no {', '.join(missing)}; load it whole with {type(self).__name__}.from_pretrained, "
                "without `parts`, or call the stages whose parts it has, such as `perceive`"
            )

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or cast as diffusers, and drop the prefixes of the LLM, which would stay on its old device."""
        self._drop_prefixes()
        return super().to(*args, **kwargs)  # type: ignore[misc]

    def place_stages(self, device_map: Mapping[StageName, torch.device | str]) -> None:
        """Move each stage to its device: `{"perceive": "cuda:0", "understand": "cuda:1", "paint": "cuda:0"}`.

        Raises:
            ValueError: a stage is missing or unknown.
        """
        stages = self._parts_of_stages()
        if set(device_map) != set(stages):
            raise ValueError(f"device_map names {sorted(device_map)}; write a device for each of {sorted(stages)}")
        self._drop_prefixes()
        for stage, device in device_map.items():
            for part in stages[stage]:
                part.to(device)

    def device_of(self, stage: StageName) -> torch.device:
        """Find the device that a stage runs on; where diffusers offloads parts, the one that it brings them to.

        diffusers looks for its hooks in every module, 20 ms at nano's size, and is asked only about parts on the CPU or
        on meta, where those are that it offloads.
        """
        parts = self._parts_of_stages()[stage]
        if parts:
            weights = itertools.chain(parts[0].parameters(), parts[0].buffers())
            if (device := next(weights).device).type not in ("cpu", "meta"):
                return device
        running: torch.device = self._execution_device  # type: ignore[attr-defined]
        elsewhere = not parts or running != self.device  # type: ignore[attr-defined]
        return running if elsewhere else parts[0].device

    def _drop_prefixes(self) -> None:
        if self.prefixes is not None:
            self.prefixes.clear()

    def _parts_of_stages(self) -> dict[str, list[Any]]:
        names = {"perceive": self.PERCEIVING, "understand": self.UNDERSTANDING, "paint": self.PAINTING}
        parts = {stage: [getattr(self, name, None) for name in own] for stage, own in names.items()}
        return {stage: [part for part in own if isinstance(part, nn.Module)] for stage, own in parts.items()}
