"""Places of the stages: perceiving, understanding and painting may each have a device of their own."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn

StageName = Literal["perceive", "understand", "paint"]


class StageDevices:
    """Devices of a pipeline's stages, found where their weights are.

    The tensors between the stages are a few megabytes for each picture.
    """

    PERCEIVING: ClassVar[Sequence[str]]
    UNDERSTANDING: ClassVar[Sequence[str]]
    PAINTING: ClassVar[Sequence[str]]

    def place_stages(self, device_map: Mapping[StageName, torch.device | str]) -> None:
        """Move each stage to its device: `{"perceive": "cuda:0", "understand": "cuda:1", "paint": "cuda:0"}`.

        Raises:
            ValueError: a stage is missing or unknown.
        """
        stages = self._parts_of_stages()
        if set(device_map) != set(stages):
            raise ValueError(f"device_map names {sorted(device_map)}; write a device for each of {sorted(stages)}")
        for stage, device in device_map.items():
            for part in stages[stage]:
                part.to(device)

    def device_of(self, stage: StageName) -> torch.device:
        """Find the device that a stage runs on; where diffusers offloads parts, the one that it brings them to."""
        parts, running = self._parts_of_stages()[stage], self._execution_device  # type: ignore[attr-defined]
        device: Any = next((part.device for part in parts), running)
        # An offloaded part is on the CPU, or on meta, until it runs.
        return device if running == self.device or not parts else running  # type: ignore[attr-defined]

    def _parts_of_stages(self) -> dict[str, list[Any]]:
        names = {"perceive": self.PERCEIVING, "understand": self.UNDERSTANDING, "paint": self.PAINTING}
        parts = {stage: [getattr(self, name, None) for name in own] for stage, own in names.items()}
        return {stage: [part for part in own if isinstance(part, nn.Module)] for stage, own in parts.items()}
