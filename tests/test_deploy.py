"""Files for Prometheus and Grafana name metrics that exist, and their alerts fire when they should."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from fireedit.serve import metrics

DEPLOY = Path(__file__).parent.parent / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
ALERTS = [rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPORTED = {*metrics.COUNTERS, *metrics.GAUGES} | {
    f"{name}_{suffix}" for name in metrics.HISTOGRAMS for suffix in ("bucket", "count", "sum")
}
"""Names of our metrics in Prometheus, without Ray's prefix."""


@pytest.mark.parametrize("queries", [QUERIES, [rule["expr"] for rule in ALERTS]], ids=["dashboard", "alerts"])
def test_queries_name_metrics_that_are_exported(queries: list[str]) -> None:
    used = {name for query in queries for name in re.findall(r"\bray_(fireedit_\w+)", query)}
    assert used and used <= EXPORTED


def test_the_dashboard_shows_every_metric_and_takes_the_datasource_of_whoever_imports_it() -> None:
    shown = {name for name in EXPORTED if any(f"ray_{name}" in query for query in QUERIES)}
    families = (*metrics.COUNTERS, *metrics.GAUGES, *metrics.HISTOGRAMS)
    assert not [family for family in families if not any(name.startswith(family) for name in shown)]
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {"${datasource}"}


def test_four_alerts_say_what_happened_and_what_to_do() -> None:
    assert len(ALERTS) == 4
    assert all(rule["annotations"].keys() == {"summary", "action"} and rule["for"] for rule in ALERTS)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool of Debian's package prometheus")
@pytest.mark.parametrize("command", ["check config --syntax-only prometheus.yml", "test rules alerts_test.yaml"])
def test_prometheus_takes_the_files_and_alerts_fire_as_in_their_examples(command: str) -> None:
    done = subprocess.run(["promtool", *command.split()], cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
