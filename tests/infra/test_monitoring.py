"""The dashboard and the alert rules: they are what Grafana and Prometheus read, and name metrics that jobs export."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.runtime import telemetry

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "infra" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
RULES = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
PANELS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ALERTS = {rule["alert"]: rule["expr"] for group in RULES for rule in group["rules"]}
EXPORTED = {f"ray_{name}": series for name, series in {**telemetry.GAUGES, **telemetry.COUNTERS}.items()}
WORDS = {"max", "sum", "unless"}


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics that a PromQL expression reads, and the labels that it names anywhere."""
    labels = {
        label
        for group in re.findall(r"\b(?:by|on) \(([^)]*)\)|\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)(?=\s*(?:[,=!]|$))", " ".join(group).strip())
    }
    plain = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on) \([^)]*\)|\w+(?=\()", "", expression)
    for name in re.findall(r"\b[A-Za-z_:]\w*", plain):
        if name not in WORDS:
            yield name, labels


@pytest.mark.parametrize("expression", [*PANELS, *ALERTS.values()])
def test_an_expression_reads_metrics_of_ours_by_labels_that_they_have(expression: str) -> None:
    found = list(selectors(expression))
    assert found
    for name, labels in found:
        assert name in EXPORTED
        assert labels <= set(EXPORTED[name].tags)


def test_the_dashboard_shows_every_metric() -> None:
    assert {name for expression in PANELS for name, _ in selectors(expression)} == EXPORTED.keys()


def test_names_are_found_in_an_expression() -> None:
    expression = 'max by (verb) (rate(a_total{output=~"$output"}[5m])) unless on (rank) changes(b[15m]) > 2 * c'
    assert list(selectors(expression)) == [(name, {"verb", "output", "rank"}) for name in ("a_total", "b", "c")]


def test_panels_are_whole_and_do_not_overlap() -> None:
    assert [panel["id"] for panel in DASHBOARD["panels"]] == list(range(1, len(PANELS)))
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD))) == variables


def test_alerts_say_what_happened_and_what_to_do() -> None:
    for rule in (rule for group in RULES for rule in group["rules"]):
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["annotations"].keys() == {"summary", "description"}
    assert ALERTS.keys() == {"MPCTrainingStandsStill", "MPCTrainingWaitsForData", "MPCCheckpointOld"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_rules_pass_their_unit_tests() -> None:
    subprocess.run(["promtool", "check", "rules", MONITORING / "alerts.yaml"], check=True)
    subprocess.run(["promtool", "test", "rules", MONITORING / "alerts_test.yaml"], check=True)


def test_the_page_of_operations_lists_every_metric_with_its_tags() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(ray_mpc_\w+)` \| ([^|]+) \|", page, re.MULTILINE)
    assert {name: tuple(re.findall(r"\w+", tags)) for name, tags in rows} == {
        name: series.tags for name, series in EXPORTED.items()
    }


def test_the_pod_monitor_selects_ray_nodes_in_the_namespace_of_the_jobs() -> None:
    monitor = yaml.safe_load((MONITORING / "pod_monitor.yaml").read_text())
    kustomization = yaml.safe_load((ROOT / "infra" / "kuberay" / "kustomization.yaml").read_text())
    assert (monitor["kind"], monitor["metadata"]["namespace"]) == ("PodMonitor", kustomization["namespace"])
    assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
