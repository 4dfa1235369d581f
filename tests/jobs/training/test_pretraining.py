"""An interrupted training resumes to the same weights, and its files are complete."""

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fireedit.jobs.training.pretraining import METRICS, SHEET, PretrainRecipe, figures_path, pretrain
from fireedit.platform.train import checkpoints
from fireedit.platform.train.optimizer import OptimizerConfig

STEPS = 20


class Line:
    """Fit a line to noisy points; sends itself SIGTERM at step `stop_at`."""

    name = "line"

    def __init__(self, stop_at: int = 0):
        torch.manual_seed(0)
        self.model: nn.Module = nn.Linear(1, 1)
        self.stop_at = stop_at

    def draw(self, seed: int) -> Mapping[str, Tensor]:
        point = torch.randn(1, generator=torch.Generator().manual_seed(seed))
        return {"x": point, "y": 3 * point - 1, "seed": torch.tensor(seed)}

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.stop_at and int(batch["seed"][0]) == 8 * (self.stop_at - 1):
            os.kill(os.getpid(), signal.SIGTERM)
        jitter = 0.01 * torch.randn(())
        return {"loss": (model(batch["x"]) + jitter - batch["y"]).square().mean()}

    def figures(self, model: nn.Module) -> dict[str, float]:
        return {"slope": float(next(model.parameters()))}

    def preview(self, model: nn.Module) -> Image.Image:
        return Image.new("RGB", (4, 4))

    def load(self, folder: Path) -> None:
        self.model.load_state_dict(weights(folder))

    def save(self, model: nn.Module, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(model.state_dict(), folder / "line.pt")


@pytest.fixture
def recipe(tmp_path: Path) -> PretrainRecipe:
    optimizer = OptimizerConfig(lr=0.2, warmup_ratio=0.1, cooldown_ratio=0.3)
    return PretrainRecipe(
        steps=STEPS, batch=8, optimizer=optimizer, workers=0, average=0.5, log_every=5, home=str(tmp_path / "home")
    )


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "line.pt", weights_only=True)


def test_a_stopped_training_resumes_to_the_same_weights(recipe: PretrainRecipe, tmp_path: Path) -> None:
    unbroken = pretrain(Line(), replace(recipe, home=str(tmp_path / "unbroken")), tmp_path / "a")
    for stop_at in (3, 11):
        with pytest.raises(SystemExit, match="stopped after step"):
            pretrain(Line(stop_at), recipe, tmp_path / "b")
    report = pretrain(Line(), recipe, tmp_path / "b")
    assert report["slope"] == unbroken["slope"] and report["steps"] == STEPS
    assert all(torch.equal(value, weights(tmp_path / "b")[name]) for name, value in weights(tmp_path / "a").items())


def test_training_learns_and_logs(recipe: PretrainRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = pretrain(Line(), replace(recipe, steps=60), tmp_path)
    folder = Path(recipe.home) / "pretraining" / "line"
    assert report["slope"] == pytest.approx(3, abs=0.1)
    assert json.loads(figures_path(tmp_path, "line").read_text()) == report
    assert len((folder / METRICS).read_text().splitlines()) == 60 / recipe.log_every
    with Image.open(folder / SHEET) as preview:
        assert preview.size == (4, 4)
    assert sorted(path.name for path in folder.iterdir()) == [METRICS, SHEET, "step-00000060"], "no drafts"
    assert "step     60/60" in capsys.readouterr().err


def test_training_starts_from_saved_weights_and_resumes_from_its_checkpoint(
    recipe: PretrainRecipe, tmp_path: Path
) -> None:
    long = pretrain(Line(), replace(recipe, steps=60, home=str(tmp_path / "first")), tmp_path / "saved")
    figures_path(tmp_path / "saved", "line").write_text(json.dumps({"minutes": 7.0}))
    still = replace(recipe, optimizer=OptimizerConfig(lr=1e-9), init_from=tmp_path / "saved")
    started = pretrain(Line(), still, tmp_path / "out")
    assert started["slope"] == pytest.approx(long["slope"], abs=1e-4)
    assert started["minutes"] == 7.0
    more = replace(still, steps=2 * STEPS)
    assert pretrain(Line(), more, tmp_path / "out")["steps"] == 2 * STEPS  # resumed from its checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_from": Path("nothing")}, "began with init_from None, not .*/nothing; write no init_from to resume"),
        ({"seed": 1}, "began with seed 0, not 1; write seed=0"),
    ],
)
def test_a_training_resumes_only_with_the_settings_that_it_keeps(
    recipe: PretrainRecipe, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    pretrain(Line(), replace(recipe, steps=1), tmp_path / "out")
    folder = tmp_path / "home" / "pretraining" / "line"
    with pytest.raises(SystemExit, match=f"line: its training in {folder} {message}"):
        pretrain(Line(), replace(recipe, steps=2, **change), tmp_path / "out")
    state = folder / "step-00000001" / "state.json"
    older = json.loads(state.read_text())
    del older["position"]["task"]["begun_with"]
    state.write_text(json.dumps(older))
    if "init_from" not in change:
        assert pretrain(Line(), replace(recipe, steps=2, **change), tmp_path / "out")["steps"] == 2


def test_a_training_that_diverges_ends_with_a_sentence_and_keeps_its_weights(
    recipe: PretrainRecipe, tmp_path: Path
) -> None:
    pretrain(Line(), replace(recipe, steps=5), tmp_path / "out")
    before = weights(tmp_path / "out")
    wild = replace(recipe, optimizer=OptimizerConfig(lr=1e38))
    with pytest.raises(SystemExit, match="line: step 10: training has diverged to loss .*lower optimizer.lr.*resumes"):
        pretrain(Line(), wild, tmp_path / "out")
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "out").items())
    assert pretrain(Line(), recipe, tmp_path / "out")["steps"] == STEPS


def test_a_time_limit_ends_training_after_the_cooldown(recipe: PretrainRecipe, tmp_path: Path) -> None:
    report = pretrain(Line(), replace(recipe, steps=None, minutes=0.02), tmp_path)
    rows = (Path(recipe.home) / "pretraining" / "line" / METRICS).read_text().splitlines()
    rates = [json.loads(row)["lr"] for row in rows]
    assert report["steps"] > 3 and max(rates) == pytest.approx(0.2, rel=0.05) and rates[-1] < 0.1
    more = pretrain(Line(), replace(recipe, steps=None, minutes=0.04), tmp_path)
    assert more["steps"] > report["steps"] and more["samples"] == 8 * more["steps"]


def test_a_recipe_without_an_end_is_refused(recipe: PretrainRecipe) -> None:
    with pytest.raises(ValueError, match="write minutes=20"):
        replace(recipe, steps=None)


def test_averaged_weights_are_saved_and_evaluated(recipe: PretrainRecipe, tmp_path: Path) -> None:
    line = Line()
    report = pretrain(line, replace(recipe, average=0.9), tmp_path)
    saved = checkpoints.latest(str(Path(recipe.home) / "pretraining" / "line"))
    assert saved is not None
    with checkpoints.CheckpointFiles.open(saved) as files:
        slopes = {kind: float(dict(files.tensors(kind))["weight"]) for kind in ("weights", "averages")}
    assert report["slope"] == float(weights(tmp_path)["weight"]) == slopes["averages"] != slopes["weights"]
