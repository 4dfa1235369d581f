"""Recipes: YAML in, frozen dataclasses out.

One YAML file is one run. An unknown key, a wrong type or a value out of range is an error that names the file, the key,
the value found and what to write.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

T = TypeVar("T")
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


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


def load(recipe: type[T], name: str, overrides: Sequence[str] = (), folder: Path | None = None) -> T:
    """Read a recipe by path, or by its name in `folder`, and apply `a.b=value` overrides in order.

    Raises:
        RecipeError: the file, a key or a value is wrong.
    """
    path = Path(name) if folder is None or name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        there = [] if folder is None else sorted(file.stem for file in folder.glob("*.yaml"))
        names = ["the path of a .yaml file", *there]
        raise RecipeError(f"{name}: no such recipe; write {' or '.join(names)}")
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name}: not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path.name}: found a {type(raw).__name__}; write one `key: value` a line")
    for override in overrides:
        _assign(recipe, raw, override)
    return parse(recipe, raw, where=path.name)


def parse(recipe: type[T], raw: Mapping[str, Any], where: str) -> T:
    """Build a recipe from plain values, checking every key, type and range; `where` begins the error messages.

    A section changes the default that its field has in the recipe above, as an override does: keys that it leaves out
    stay as they are there. A mapping of names to values, such as a mixture, is no section and replaces its default.
    """
    in_list: TypeAdapter[list[T]] = TypeAdapter(list[recipe], config=STRICT)  # type: ignore[valid-type]
    try:  # in a list, since a dataclass by itself takes no config
        return in_list.validate_python([_over_defaults(recipe, raw)])[0]
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(recipe, error)}") from None


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


def _over_defaults(hint: Any, given: Any, default: Any = None) -> Any:
    """Lay the keys of a section, and of those in it, over `default`, the value of its field where none is given.

    In a union the keys choose the class: the default's, if it has them all. A type with a validator that runs before
    pydantic's own, such as the sizes of a model, completes itself.
    """
    if typing.get_origin(hint) is Annotated:
        hint, *metadata = typing.get_args(hint)
        if any(isinstance(each, BeforeValidator) for each in metadata):
            return given
    if not isinstance(given, Mapping) or not (options := _dataclasses_in(hint)):
        return given
    fitting = [each for each in options if {*given} <= {*_defaults_of(each)}] or options
    chosen = next((each for each in fitting if isinstance(default, each)), None)
    if chosen is None and len(fitting) > 1:
        return given
    section = chosen or fitting[0]
    hints, defaults = typing.get_type_hints(section, include_extras=True), _defaults_of(section)
    base = {name: getattr(default, name) for name in defaults} if chosen else {}
    known = defaults | base
    laid = {key: _over_defaults(hints.get(key), value, known.get(key)) for key, value in given.items()}
    return base | laid


def _defaults_of(section: type) -> dict[str, Any]:
    """List the fields of a dataclass with their defaults, None for one that is required."""
    defaults = {}
    for field in dataclasses.fields(section):
        made = None if field.default_factory is dataclasses.MISSING else field.default_factory()
        defaults[field.name] = made if field.default is dataclasses.MISSING else field.default
    return defaults


def _dataclasses_in(hint: Any) -> list[type]:
    """List the dataclasses of a union, or of a hint that is one."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    return [each for each in options if isinstance(each, type) and dataclasses.is_dataclass(each)]


def _assign(recipe: Any, raw: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in plain values: text for a field of text, and wherever the value is not YAML."""
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"override {override!r} has no '='; write it as section.key=value")
    *sections, leaf = key.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise RecipeError(f"override {override!r}: '{section}' is a value, not a section")
    raw[leaf] = text if _fields_in(recipe, sections).get(leaf) is str else _yaml_or_text(text)


def _yaml_or_text(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _explain(recipe: Any, error: ValidationError) -> str:
    """Word the first unknown key, or else the first wrong value, and what to write instead."""
    details = error.errors()
    for detail in details:
        *sections, key = map(str, detail["loc"][1:])
        known = _fields_in(recipe, sections)
        if detail["type"] == "unexpected_keyword_argument" and key not in known:
            return f"unknown key '{'.'.join([*_written(recipe, sections), key])}'; {nearest(key, list(known))}"
    first = details[0]
    key, message = ".".join(_written(recipe, first["loc"][1:])), first["msg"].removeprefix("Value error, ")
    found = "" if first["type"] in ("missing", "value_error") else f", found {first['input']!r}"
    return f"{key}: {message}{found}"


def _written(recipe: Any, location: Sequence[Any]) -> list[str]:
    """Keys of a location as a recipe writes them: without the classes of unions, which pydantic names as sections."""
    keys, hint = [], recipe
    for place in map(str, location):
        fields = _fields_in(hint)
        if place in fields or len(_dataclasses_in(hint)) < 2:
            keys.append(place)
        hint = fields.get(place, hint)
    return keys


def _fields_in(hint: Any, sections: Sequence[str] = ()) -> dict[str, Any]:
    """List the fields, with their types, of a dataclass or of all dataclasses in a union, or of a section below."""
    fields = {name: field for each in _dataclasses_in(hint) for name, field in typing.get_type_hints(each).items()}
    if not sections:
        return fields
    return _fields_in(fields.get(sections[0], hint), sections[1:])  # pydantic names a union's classes as sections
