"""Recipes: what is right becomes a frozen dataclass, what is wrong an error that says what to write."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fireedit.platform import config
from fireedit.platform.config import RecipeError


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


def write(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_and_overrides_become_a_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 3\noptimizer: {lr: 0.1}\n")
    recipe = config.load(Recipe, path, ["optimizer.warmup_steps=7", "names=[a, b]", "extra.lr=1"])
    expected = Recipe(steps=3, optimizer=Optimizer(lr=0.1, warmup_steps=7), names=("a", "b"), extra=Optimizer(lr=1))
    assert recipe == expected


def test_what_is_dumped_can_be_loaded(tmp_path: Path) -> None:
    recipe = Recipe(steps=3, optimizer=Optimizer(lr=0.1), names=("a",))
    assert config.load(Recipe, write(tmp_path, config.dump(recipe))) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "steps: 3\noptimizer: {lr: 1, warmup_step: 2}",
            [],
            "optimizer: unknown key 'warmup_step'; did you mean 'warmup",
        ),
        ("steps: 3\noptimizer: {lr: 1}\nextra: {lrr: 1}", [], "extra: unknown key 'lrr'; did you mean 'lr'?"),
        ("stepss: 3", [], "unknown key 'stepss'; did you mean 'steps'?"),
        ("steps: many\noptimizer: {lr: 1}", [], "steps: Input should be a valid integer.*found 'many'"),
        ("steps: 3\noptimizer: {}", [], "optimizer.lr: Field required"),
        ("steps: 3\noptimizer: {lr: 1}", ["steps"], "override 'steps' has no '='"),
        ("steps: 3\noptimizer: {lr: 1}", ["steps.x=1"], "'steps' is a value, not a section"),
        ("- steps", [], "found a list; write one `key: value` a line"),
        ("steps: [", [], "not YAML"),
    ],
)
def test_a_wrong_recipe_says_what_to_write(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        config.load(Recipe, write(tmp_path, text), overrides)


def test_an_unknown_name_lists_the_recipes_there_are() -> None:
    with pytest.raises(RecipeError, match="no recipe is called 'nano-stage9'; write one of .*nano-stage1"):
        config.find("nano-stage9")
    with pytest.raises(RecipeError, match="no such recipe file"):
        config.find("nowhere.yaml")
