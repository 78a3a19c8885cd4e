"""The dashboard and the alert rules: they are what Grafana and Prometheus read, and name metrics that jobs export."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from support import tiny

from pipelines.config import recipe
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


JOBS = """
import json, sys, threading, urllib.request
import ray
from pipelines.build import build
from pipelines.config import recipe
from pipelines.predict import predict
from pipelines.pretrain import pretrain
from pipelines.runtime import cluster, telemetry

config, found, ended = recipe.load(sys.argv[1], []), {}, threading.Event()
cluster.connect()
(node,) = ray.nodes()
address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
telemetry.set_gauge("mpc_gpu_memory_bytes", 1.0, verb="pretrain", output="none", rank="0")  # there may be no GPU here

def scrape():
    with urllib.request.urlopen(address, timeout=10) as page:
        for line in page.read().decode().splitlines():
            name, value = line.partition("{")[0], line.rpartition(" ")[2]
            if name.startswith("ray_mpc_"):
                found[name] = max(found.get(name, 0.0), float(value))

def watch():
    while not ended.wait(1):
        scrape()

watching = threading.Thread(target=watch, daemon=True)
watching.start()
build(config)
pretrain(config)
predict(config)
ended.wait(15)  # Ray's nodes export every second here
ended.set()
watching.join()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_jobs_export_every_metric_under_its_name(settings: list[str], photos: Path, tmp_path: Path) -> None:
    source = shutil.copytree(photos, tmp_path / "photos")
    (source / "empty.png").touch()
    model, file = tmp_path / "model", tmp_path / "recipe.yaml"
    tiny().save(str(model))
    more = [f"workspace={tmp_path}/run", f"predict.input={photos}", f"predict.model={model}", "predict.workers=1"]
    more += ["train.workers=1", "train.checkpoint_every=5", "pretrain.epochs=4"]
    more += [f"build.sources.0.location={source}", "build.sources.0.samples_per_photo=25"]
    file.write_text(yaml.safe_dump(recipe.load(None, [*settings, *more]).dump()))
    done = subprocess.run(
        [sys.executable, "-c", JOBS, str(file)],
        capture_output=True,
        text=True,
        timeout=550,
        env={**os.environ, "RAY_metrics_report_interval_ms": "1000"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == EXPORTED.keys()
    dataset = tmp_path / "run" / "dataset"
    assert found["ray_mpc_build_shards_total"] == len([*dataset.glob("shards/*.parquet")])
    assert found["ray_mpc_build_rejects_total"] == pq.read_metadata(dataset / "rejects.parquet").num_rows
    assert found["ray_mpc_predict_images_total"] == len([*photos.iterdir()])
    assert 0 < found["ray_mpc_train_data_wait_share"] <= 1
    assert found["ray_mpc_checkpoint_interval_seconds"] < 600
