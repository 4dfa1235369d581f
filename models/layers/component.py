"""Base class of the components: built from a frozen dataclass, saved and loaded by diffusers."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from diffusers import ConfigMixin, ModelMixin
from pydantic import TypeAdapter


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


class Component(FromSizes, ModelMixin, ConfigMixin):
    """Component of FireEdit with diffusers' `from_pretrained` and `save_pretrained` (safetensors beside config.json).

    A subclass `X` names its frozen dataclass `XConfig` in `config_class` and takes it as its only argument. It also
    names ModelMixin as a base: diffusers loads a class only if its module knows that name.
    """

    config_name = "config.json"

    def __init__(self, config: Any):
        super().__init__()
        self.register_to_config(**dataclasses.asdict(config))
