"""Recipes become frozen dataclasses; a wrong one is an error that names key, value and what to write."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

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
    with pytest.raises(RecipeError, match="unknown key 'model.vae.*pach'; did you mean 'patch'"):
        config.load(Ranges, path, ["model.vae.pach=8"])


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
