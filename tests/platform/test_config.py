"""Recipes become frozen dataclasses; a wrong one is an error that names key, value and what to write."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BeforeValidator, Field

from fireedit.platform import config
from fireedit.platform.config import Decay, LogicalCPUs, Ratio, RecipeError, Seed


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float
    warmup_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    steps: int
    optimizer: Optimizer
    extra: Optimizer | None = None
    names: tuple[str, ...] = field(default_factory=tuple)
    run: str = ""


@dataclass(frozen=True, kw_only=True)
class Small:
    patch: int


@dataclass(frozen=True, kw_only=True)
class Large:
    layers: int = 1


@dataclass(frozen=True, kw_only=True)
class Model:
    preset: str
    vae: Small | Large = field(default_factory=Large)


@dataclass(frozen=True, kw_only=True)
class Ranges:
    model: Model = field(default_factory=lambda: Model(preset="nano"))
    ratio: Ratio = 0.0
    decay: Decay = 0.0
    seed: Seed = 0
    cpus: LogicalCPUs = 1.0
    lr: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Replicas:
    cpus: float = 0.25
    most: int = 32
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=2.0, warmup_steps=5))


@dataclass(frozen=True, kw_only=True)
class Many(Replicas):
    batch: int = 4


@dataclass(frozen=True, kw_only=True)
class Group:
    first: Replicas = field(default_factory=lambda: Replicas(most=64))
    vae: Small | Large = Large(layers=7)


@dataclass(frozen=True, kw_only=True)
class Nested:
    """Every default here is another than its class has by itself."""

    gateway: Replicas = field(default_factory=lambda: Replicas(most=128, optimizer=Optimizer(lr=3.0, warmup_steps=9)))
    wide: Replicas = Many(most=256, batch=8)
    group: Group = field(default_factory=lambda: Group(first=Replicas(cpus=2, most=16)))
    vae: Annotated[Small | Large, Field(union_mode="left_to_right")] = Large(layers=3)
    extra: Replicas | None = field(default_factory=lambda: Replicas(most=1))
    absent: Group | None = None
    shares: Mapping[str, float] = field(default_factory=lambda: {"a": 1.0})
    fixed: Annotated[Replicas, BeforeValidator(lambda given: given)] = Replicas(most=5)


def write(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_and_overrides_become_a_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 3\noptimizer: {lr: 0.1}\n")
    recipe = config.load(Recipe, path, ["optimizer.warmup_steps=7", "names=[a, b]", "extra.lr=1"])
    expected = Recipe(steps=3, optimizer=Optimizer(lr=0.1, warmup_steps=7), names=("a", "b"), extra=Optimizer(lr=1))
    assert recipe == expected


@pytest.mark.parametrize("text", ["@latest", "%date%", "1", "null", "2026-01-01", "a: b", "[", ""])
def test_a_field_of_text_takes_any_word_from_the_command_line(tmp_path: Path, text: str) -> None:
    recipe = config.load(Recipe, write(tmp_path, "steps: 3\noptimizer: {lr: 0.1}\n"), [f"run={text}"])
    assert recipe.run == text


def test_an_unknown_key_of_a_union_is_explained(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {preset: paper}")
    assert config.load(Ranges, path, ["model.vae.patch=8"]).model == Model(preset="paper", vae=Small(patch=8))
    with pytest.raises(RecipeError, match="unknown key 'model.vae.pach'; did you mean 'patch'"):
        config.load(Ranges, path, ["model.vae.pach=8"])
    with pytest.raises(RecipeError, match="model.vae.patch: .*found 'x'"):
        config.load(Ranges, path, ["model.vae.patch=x"])


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("ratio=500", "ratio: .*found 500"),
        ("ratio=-0.1", "ratio: .*found -0.1"),
        ("decay=1", "decay: .*found 1"),
        ("seed=-1", "seed: .*found -1"),
        (f"seed={2**63}", f"seed: .*found {2**63}"),
        ("seed=1.5", "seed: .*found 1.5"),
        ("cpus=0", "cpus: .*found 0"),
        ("cpus=1.5", "cpus: found 1.5.*write a whole number"),
        ("lr=.inf", "lr: .*finite number, found inf"),
        ("lr=.nan", "lr: .*finite number, found nan"),
    ],
)
def test_a_value_out_of_range_is_refused(tmp_path: Path, override: str, found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        config.load(Ranges, write(tmp_path, ""), [override])


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("gateway: {cpus: 0.1}", "gateway", Replicas(cpus=0.1, most=128, optimizer=Optimizer(lr=3.0, warmup_steps=9))),
        (
            "gateway: {optimizer: {lr: 1}}",
            "gateway",
            Replicas(most=128, optimizer=Optimizer(lr=1, warmup_steps=9)),
        ),
        ("gateway: {}", "gateway", Nested().gateway),
        ("gateway: {optimizer: {warmup_steps: 0}}", "gateway", Replicas(most=128, optimizer=Optimizer(lr=3.0))),
        ("wide: {cpus: 1}", "wide", Replicas(cpus=1, most=256)),
        ("group: {first: {cpus: 1}}", "group", Group(first=Replicas(cpus=1, most=16))),
        ("group: {vae: {layers: 8}}", "group", Group(first=Replicas(cpus=2, most=16), vae=Large(layers=8))),
        ("vae: {}", "vae", Large(layers=3)),
        ("vae: {layers: 4}", "vae", Large(layers=4)),
        ("vae: {patch: 4}", "vae", Small(patch=4)),
        ("extra: {cpus: 3}", "extra", Replicas(cpus=3, most=1)),
        ("extra: null", "extra", None),
        ("absent: {first: {cpus: 3}}", "absent", Group(first=Replicas(cpus=3, most=64))),
        ("shares: {b: 2}", "shares", {"b": 2.0}),
        ("fixed: {cpus: 1}", "fixed", Replicas(cpus=1)),
    ],
)
def test_a_section_keeps_the_defaults_of_its_field(tmp_path: Path, text: str, field: str, expected: object) -> None:
    recipe = config.load(Nested, write(tmp_path, text))
    assert getattr(recipe, field) == expected and type(getattr(recipe, field)) is type(expected)
    assert recipe == replace(Nested(), **{field: expected}), "the other sections stay as they are"


def test_an_override_keeps_the_defaults_of_its_field(tmp_path: Path) -> None:
    recipe = config.load(Nested, write(tmp_path, ""), ["gateway.optimizer.lr=4", "group.first.cpus=1"])
    assert recipe.gateway == Replicas(most=128, optimizer=Optimizer(lr=4, warmup_steps=9))
    assert recipe.group.first == Replicas(cpus=1, most=16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gateway: {mosst: 1}", "unknown key 'gateway.mosst'; did you mean 'most'"),
        ("gateway: {optimizer: {lrr: 1}}", "unknown key 'gateway.optimizer.lrr'; did you mean 'lr'"),
        ("gateway: {most: many}", "gateway.most: .*found 'many'"),
        ("gateway: 3", "gateway: .*found 3"),
        ("vae: {layer: 4}", "unknown key 'vae.*layer'; did you mean 'layers'"),
    ],
)
def test_a_wrong_section_with_defaults_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        config.load(Nested, write(tmp_path, text))


def test_a_dumped_recipe_can_be_loaded(tmp_path: Path) -> None:
    recipe = Recipe(steps=3, optimizer=Optimizer(lr=0.1), names=("a",))
    assert config.load(Recipe, write(tmp_path, config.dump(recipe))) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("steps: 3\noptimizer: {lr: 1, warmup_step: 2}", [], "'optimizer.warmup_step'; did you mean 'warmup_steps'"),
        ("steps: 3\noptimizer: {lr: 1}\nextra: {lrr: 1}", [], "unknown key 'extra.lrr'; did you mean 'lr'?"),
        ("stepss: 3", [], "unknown key 'stepss'; did you mean 'steps'?"),
        ("steps: many\noptimizer: {lr: 1}", [], "steps: .*found 'many'"),
        ("steps: 3\noptimizer: {}", [], "optimizer.lr: .*required"),
        ("steps: 3\noptimizer: {lr: 1}", ["steps"], "override 'steps' has no '='"),
        ("steps: 3\noptimizer: {lr: 1}", ["steps.x=1"], "'steps' is a value, not a section"),
        ("- steps", [], "found a list"),
        ("steps: [", [], "not YAML"),
    ],
)
def test_a_wrong_recipe_says_what_to_write(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        config.load(Recipe, write(tmp_path, text), overrides)
