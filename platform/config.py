"""Recipes: YAML in, frozen dataclasses out.

One YAML file is one run. An unknown key, a wrong type or a value out of range is an error that names the file, the key,
the value found and what to write.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

T = TypeVar("T")
PRESET = "preset"
"""Field by which a section may be written short: `model: nano` is `model: {preset: nano}`."""


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file, the key and what to write instead."""


def _whole_above_one(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError(f"found {value}; Ray takes fractions below 1 only: write a whole number")
    return value


Ratio = Annotated[float, Field(ge=0, le=1)]
"""Share of a whole."""
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share of a moving average that is kept at each update."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Seed of NumPy's and PyTorch's generators."""
LogicalCPUs = Annotated[float, Field(gt=0), AfterValidator(_whole_above_one)]
LogicalGPUs = Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)]
"""CPUs and GPUs as Ray counts them: a fraction of one, or a whole number."""


def load(
    recipe: type[T],
    name: str,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> T:
    """Read a recipe by path, or by its name in `folder`, and apply `a.b=value` overrides in order.

    Args:
        defaults: values of keys that neither the file nor an override gives.
    Raises:
        RecipeError: the file, a key or a value is wrong.
    """
    path = find(name, folder)
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name}: not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path.name}: found a {type(raw).__name__}; write one `key: value` a line")
    for override in overrides:
        _assign(recipe, raw, override)
    return parse(recipe, {**(defaults or {}), **raw}, where=path.name)


def find(name: str, folder: Path | None = None) -> Path:
    """Find a recipe's file: `name` itself if it is a path of a YAML file, else `name`.yaml in `folder`."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise RecipeError(f"{name}: no such recipe file")
        return Path(name)
    paths = {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in paths:
        raise RecipeError(f"no recipe is called {name!r}; write one of {', '.join(paths)}, or the path of a .yaml file")
    return paths[name]


def parse(recipe: type[T], raw: Mapping[str, Any], where: str) -> T:
    """Build a recipe from plain values, checking every key, type and range; `where` begins the error messages."""
    _refuse_unknown(recipe, raw, where)
    try:
        parsed = TypeAdapter(recipe).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        found = "" if first["type"] in ("missing", "value_error") else f", found {first['input']!r}"
        raise RecipeError(f"{where}: {key}: {message}{found}") from None
    for key, value in _numbers(to_plain(parsed)):
        if not math.isfinite(value):
            raise RecipeError(f"{where}: {key}: found {value}; write a finite number")
    return parsed


def dump(recipe: Any) -> str:
    """Write the whole recipe as YAML, as it is saved beside the run's weights."""
    return yaml.safe_dump(to_plain(recipe), sort_keys=False)


def to_plain(recipe: Any) -> Any:
    """Turn a dataclass into plain values, as JSON and YAML hold them."""
    return TypeAdapter(type(recipe)).dump_python(recipe, mode="json")


def nearest(name: str, names: Sequence[str]) -> str:
    """Suggest what to write instead of an unknown name: the most similar of `names`, or all of them."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"write one of {', '.join(names)}"


def _assign(recipe: Any, raw: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in plain values: text for a field of text, and wherever the value is not YAML."""
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"override {override!r} has no '='; write it as section.key=value")
    *sections, leaf = key.split(".")
    hint = recipe
    for section in sections:
        hint = _fields_in(hint).get(section)
        inner = raw.setdefault(section, {})
        if not isinstance(inner, dict):
            if PRESET not in _fields_in(hint):
                raise RecipeError(f"override {override!r}: '{section}' is a value, not a section")
            inner = raw[section] = {PRESET: inner}
        raw = inner
    raw[leaf] = text if _fields_in(hint).get(leaf) is str else _yaml_or_text(text)


def _yaml_or_text(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _refuse_unknown(recipe: Any, raw: Mapping[str, Any], where: str) -> None:
    known = _fields_in(recipe)
    for key, value in raw.items():
        if key not in known:
            raise RecipeError(f"{where}: unknown key '{key}'; {nearest(str(key), list(known))}")
        if isinstance(value, dict) and _fields_in(known[key]):
            _refuse_unknown(known[key], value, f"{where}: {key}")


def _fields_in(hint: Any) -> dict[str, Any]:
    """List the fields, with their types, of a dataclass or of all dataclasses in a union; none for another type."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    dataclass_options = [option for option in options if dataclasses.is_dataclass(option)]
    return {name: field for option in dataclass_options for name, field in typing.get_type_hints(option).items()}


def _numbers(plain: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Walk the numbers in plain values with their dotted keys."""
    if isinstance(plain, Mapping):
        for name, value in plain.items():
            yield from _numbers(value, f"{key}.{name}" if key else name)
    elif isinstance(plain, list):
        for value in plain:
            yield from _numbers(value, key)
    elif isinstance(plain, int | float):
        yield key, plain
