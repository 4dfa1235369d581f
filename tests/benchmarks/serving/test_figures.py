"""Figures beside their bars."""

import json

from fireedit.benchmarks.serving.figures import Figure, percentile, report


def test_a_figure_that_could_not_be_measured_misses_its_bar() -> None:
    nothing = Figure("x", float("nan"), most=1)
    assert not nothing.met and Figure("x", float("nan")).met
    assert Figure("x", 1.0, most=1, least=1).met and not Figure("x", 0.9, least=1).met
    result = report({"section": [nothing, Figure("y", 2.0, "s", most=3)]})
    assert result["missed"] == ["section: x"]
    assert json.loads(json.dumps(result))["sections"]["section"][0]["value"] is None


def test_percentiles_of_few_values() -> None:
    assert percentile([3.0], 99) == 3.0 and percentile([], 99) != percentile([], 99)
    assert percentile([float(n) for n in range(101)], 99) == 99
