"""Base class of the components: built from a frozen dataclass, saved and loaded by diffusers."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from diffusers import ConfigMixin, ModelMixin
from pydantic import TypeAdapter


class Component(ModelMixin, ConfigMixin):
    """Component of FireEdit with diffusers' `from_pretrained` and `save_pretrained` (safetensors beside config.json).

    A subclass `X` names its frozen dataclass `XConfig` in `config_class` and takes it as its only argument. It also
    names ModelMixin as a base: diffusers loads a class only if its module knows that name.
    """

    config_name = "config.json"
    config_class: ClassVar[Any]

    def __init__(self, config: Any):
        super().__init__()
        self.register_to_config(**dataclasses.asdict(config))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Self | Any:
        """Build the module from the fields of its config.json; diffusers' own entries begin with an underscore."""
        fields = {key: value for key, value in config.items() if not key.startswith("_")}
        model = cls(TypeAdapter(cls.config_class).validate_python(fields))
        return (model, kwargs) if return_unused_kwargs else model
