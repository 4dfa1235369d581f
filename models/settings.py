"""Sampler settings: one declaration from which pipeline arguments, HTTP fields and command line flags derive.

A new setting is a field of `PaintSettings` and the line of code that reads it. Imports neither torch nor diffusers, so
that a gateway or `--help` does not load them.
"""

import argparse
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Self

SettingValue = int | float | str
MAX_SEED = 2**63 - 1
"""Largest seed of a picture, torch's."""


@dataclass(frozen=True)
class Setting:
    """Declaration of one field of `PaintSettings`."""

    name: str
    type: type[SettingValue]
    """int, float or str."""
    default: SettingValue
    """The paper's value."""
    help: str
    """Description of one line; no full stop."""
    minimum: float
    maximum: float
    """Largest value; infinity leaves a finite number unbounded. Texts have no range."""
    short: str
    """Name of the command line flag where it differs from the field's."""

    @property
    def flag(self) -> str:
        return f"--{self.short or self.name.replace('_', '-')}"

    @property
    def domain(self) -> str:
        """Description of the values taken, such as `a number from 0 to 1`."""
        if self.type is str:
            return "one text for all pictures"
        above = f" to {self.maximum:g}" if self.maximum < math.inf else ""
        return f"a {'whole ' if self.type is int else ''}number from {self.minimum:g}{above}"

    def check(self, value: Any) -> None:
        """Raise ValueError unless `value` has the setting's type and is within its range."""
        if self.type is str:
            valid = isinstance(value, str)
        else:
            valid = isinstance(value, Integral if self.type is int else Real)
            valid = valid and self.minimum <= value <= self.maximum and value < math.inf
        if not valid:
            raise ValueError(f"{self.name} is {value!r}; write {self.domain}")


def _setting(default: Any, help: str, minimum: float = 0, maximum: float = math.inf, short: str = "") -> Any:
    return field(default=default, metadata={"help": help, "minimum": minimum, "maximum": maximum, "short": short})


@dataclass(frozen=True, kw_only=True)
class PaintSettings:
    """Sampler settings of an edit; edits with equal settings can share a batch. The defaults are the paper's."""

    num_inference_steps: int = _setting(100, "denoising steps", 1, 1000, short="steps")
    guidance_scale: float = _setting(7.5, "s_T: strength of the guidance towards the instruction")
    image_guidance_scale: float = _setting(1.5, "s_I: strength of the guidance towards the source")
    keep_below: float = _setting(
        0.0,
        "latent cells (unit variance) whose mean squared distance to the source is below this are drawn back to the "
        "source; 0, the paper's, leaves the sampler's output unchanged",
        maximum=1,
    )
    negative_prompt: str = _setting("", "unconditional prompt of the guidance")

    def __post_init__(self) -> None:
        for setting in setting_fields():
            setting.check(value := getattr(self, setting.name))
            object.__setattr__(self, setting.name, setting.type(value))  # numpy's numbers cannot be saved as JSON

    @property
    def guided(self) -> bool:
        """Truth of guidance: scales of 1 and 1 give the fully conditioned prediction alone."""
        return (self.guidance_scale, self.image_guidance_scale) != (1, 1)

    def but(self, **changes: Any) -> Self:
        """Return a copy with the changes that are not None.

        Raises:
            TypeError: a change names no setting.
            ValueError: a value is out of its range.
        """
        known = [setting.name for setting in setting_fields()]
        for name in changes:
            if name not in known:
                raise TypeError(f"unknown setting {name!r}; write one of {', '.join(known)}")
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def setting_fields() -> tuple[Setting, ...]:
    """List the declared settings in order."""
    declared = dataclasses.fields(PaintSettings)
    return tuple(Setting(each.name, each.type, each.default, **each.metadata) for each in declared)  # type: ignore[arg-type]


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting; a flag that is left out keeps the value saved with the weights."""
    group = parser.add_argument_group("sampler settings", "default: as saved with the weights")
    for setting in setting_fields():
        text = f"{setting.help} ({setting.domain})"
        group.add_argument(setting.flag, dest=setting.name, type=setting.type, help=text)


def setting_flags(args: argparse.Namespace) -> Mapping[str, SettingValue | None]:
    """Collect the values of `add_setting_flags` as arguments for `PaintSettings.but`."""
    return {setting.name: getattr(args, setting.name) for setting in setting_fields()}
