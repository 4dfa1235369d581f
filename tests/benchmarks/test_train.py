"""Settings of the runs of stages that benchmarks train."""

from collections.abc import Sequence

import pytest

from fireedit.benchmarks import autoscale, chaos_train
from fireedit.benchmarks.training import steps
from fireedit.jobs.training.recipe import read_recipe


@pytest.mark.parametrize("settings", [autoscale.SMALL, chaos_train.RECIPE, [*steps.RECIPE, "workers.count=1"]])
def test_the_settings_are_of_a_recipe(settings: Sequence[str]) -> None:
    assert read_recipe(["--stage", "2", *settings]).stage == 2
