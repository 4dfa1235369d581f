"""Base class of the components: built from a frozen dataclass, saved and loaded by diffusers."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from accelerate import init_empty_weights
from diffusers import ConfigMixin, ModelMixin
from pydantic import TypeAdapter

from fireedit.models.checkpoint_files import read_json, read_tensors
from fireedit.models.weights import WeightsError, load_strict

AS_SAVED = "auto"
"""Value of `dtype` that keeps every tensor's own precision; transformers' word."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions by their words in recipes and on command lines; nothing trains or serves in fp16."""
NOT_AS_SAVED = ("device_map", "quantization_config", "variant")
"""Options of diffusers that change precision or place."""


class FromSizes:
    """Builds a diffusers model from its frozen dataclass, `config_class`."""

    config_class: ClassVar[Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Self | Any:
        """Build from a config.json, also a published one; entries that the dataclass lacks are ignored."""
        names = {field.name for field in dataclasses.fields(cls.config_class)}
        sizes = {name: value for name, value in config.items() if name in names}
        model = cls(TypeAdapter(cls.config_class).validate_python(sizes))  # type: ignore[call-arg]
        return (model, kwargs) if return_unused_kwargs else model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], output_loading_info: bool = False, **kwargs: Any
    ) -> Self | Any:
        """Load weights that must have every tensor of the model; diffusers would leave missing ones uninitialized.

        Tensors in the wanted precision are mapped from their file, and take memory only where they are written to.

        Args:
            kwargs: those of diffusers; also `dtype="auto"`, which keeps each tensor in the precision it is saved in.
        Raises:
            WeightsError: a tensor is missing.
            ValueError: `dtype="auto"` is given with an option that it does not go with.
        """
        if AS_SAVED in (kwargs.get("dtype"), kwargs.get("torch_dtype")):
            if others := [name for name in NOT_AS_SAVED if kwargs.get(name)]:
                raise ValueError(f"found {others[0]} beside dtype='auto'; write dtype=torch.float32 or another")
            return cls._as_saved(Path(pretrained_model_name_or_path))
        load = super().from_pretrained  # type: ignore[misc]
        model, info = load(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        if missing := sorted(info["missing_keys"]):
            unknown = f" and has an unknown {min(info['unexpected_keys'])}" if info["unexpected_keys"] else ""
            raise WeightsError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} tensors of {cls.__name__}, such as {missing[0]}"
                f"{unknown}; give it weights that this version saved"
            )
        return (model, info) if output_loading_info else model

    @classmethod
    def _as_saved(cls, folder: Path) -> Self:
        with init_empty_weights():
            model: Any = cls.from_config(read_json(folder / "config.json"))
        load_strict(model, read_tensors(folder), source=str(folder), assign=True)
        return model.eval()


class Component(FromSizes, ModelMixin, ConfigMixin):
    """Component of FireEdit with diffusers' `from_pretrained` and `save_pretrained` (safetensors beside config.json).

    A subclass `X` names its frozen dataclass `XConfig` in `config_class` and takes it as its only argument. It also
    names ModelMixin as a base: diffusers loads a class only if its module knows that name.
    """

    config_name = "config.json"

    def __init__(self, config: Any):
        super().__init__()
        self.register_to_config(**dataclasses.asdict(config))
