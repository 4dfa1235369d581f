"""Recipes: YAML in, frozen dataclasses out.

One YAML file is one run. A key that no dataclass knows, a wrong type or a missing value is an error that names the
file, the key, what was found and what to write.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file, the key and what to write instead."""


def load(recipe: type[T], name: str, overrides: Sequence[str] = (), folder: Path | None = None) -> T:
    """Read a recipe by path, or by its name in `folder`, and apply `a.b=value` overrides in order.

    Raises:
        RecipeError: the file, a key or a value is wrong.
    """
    path = find(name, folder)
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{path.name}: not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path.name}: found a {type(raw).__name__}; write one `key: value` a line")
    for override in overrides:
        _assign(raw, override)
    return parse(recipe, raw, where=path.name)


def find(name: str, folder: Path | None = None) -> Path:
    """The file of a recipe: `name` itself if it is a path of a YAML file, else `name`.yaml in `folder`."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise RecipeError(f"{name}: no such recipe file")
        return Path(name)
    paths = {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in paths:
        raise RecipeError(f"no recipe is called {name!r}; write one of {', '.join(paths)}, or the path of a .yaml file")
    return paths[name]


def parse(recipe: type[T], raw: Mapping[str, Any], where: str) -> T:
    """Build a recipe from plain values, checking every key and type; `where` begins the error messages."""
    _refuse_unknown(recipe, raw, where)
    try:
        return TypeAdapter(recipe).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        found = "" if first["type"] == "missing" else f", found {first['input']!r}"
        raise RecipeError(f"{where}: {key}: {first['msg']}{found}") from None


def dump(recipe: Any) -> str:
    """The whole recipe as YAML, as it is saved beside what it made."""
    return yaml.safe_dump(TypeAdapter(type(recipe)).dump_python(recipe, mode="json"), sort_keys=False)


def _assign(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"override {override!r} has no '='; write it as section.key=value")
    *sections, leaf = key.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise RecipeError(f"override {override!r}: '{section}' is a value, not a section")
    raw[leaf] = yaml.safe_load(value)


def _refuse_unknown(recipe: Any, raw: Mapping[str, Any], where: str) -> None:
    known = get_type_hints(recipe)
    for key, value in raw.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it takes {', '.join(known)}"
            raise RecipeError(f"{where}: unknown key '{key}'; {hint}")
        section = _dataclass_in(known[key])
        if section is not None and isinstance(value, dict):
            _refuse_unknown(section, value, f"{where}: {key}")


def _dataclass_in(hint: Any) -> Any:
    """The dataclass that a type hint `X` or `X | None` names, if any."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)
