"""Rules and boards speak of metrics that the code exports, as Prometheus keeps them."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.util.metrics

from scen.cluster.registry import MeteredRegistry
from scen.errors import ConflictError
from scen.fs import Storage
from scen.ledger.ledger import WaveCommit, create_or_open
from scen.ledger.manifest import StoreManifest
from scen.records import Edit
from scen.snapshot.open import OpenStore
from scen.tracking.traces import TraceWriter
from scen_serve.engine.request import Ended, Failed, Piece, Routed
from scen_serve.metrics import Metrics
from scen_serve.ray_app import Changes
from scen_serve.service import Service
from scen_serve.settings import EngineLimits
from scen_serve.telemetry import Traces
from unit.infra.manifests import INFRA, documents, of_kind
from unit.infra.promql import label_names, metric_names
from unit.serve.conftest import store

__all__ = ["store"]
FOLDER = INFRA / "monitoring"
BOARDS = sorted((FOLDER / "grafana/dashboards").glob("*.json"))
OF_TARGETS = {"job", "instance", "namespace", "WorkerId"}
PROMTOOL = shutil.which("promtool")
CHECKS = [
    "check rules alerts.yml",
    "test rules alerts_test.yml",
    "check config --syntax-only prometheus.yml",
]
Labels = dict[str, set[str]]


def rules() -> list[dict[str, Any]]:
    """All alert rules."""
    [found] = documents(FOLDER / "alerts.yml")
    return [rule for group in found["groups"] for rule in group["rules"]]


def board(path: Path) -> dict[str, Any]:
    """A Grafana dashboard."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def expressions() -> Iterator[str]:
    """Every PromQL expression of the rules and boards."""
    yield from (rule["expr"] for rule in rules())
    for found in map(board, BOARDS):
        yield from (target["expr"] for panel in found["panels"] for target in panel["targets"])
        for variable in found["templating"]["list"]:
            if variable["type"] == "query":
                yield re.sub(r"label_values\((.*), \w+\)", r"\1", variable["query"]["query"])


@pytest.fixture
def metrics(store: OpenStore) -> Metrics:
    """Those of a server that has answered once and failed once."""
    traces = Traces(TraceWriter("", "serving/tiny"), share=1)  # not started
    found = Metrics(Service(store, EngineLimits(max_rows=2)), traces)
    told = found.watch(lambda _: None)
    for event in (Routed(2, "edit-1", 0.5), Piece("x"), Ended("stop", 3, 1)):
        told(event)
    told(Failed(ValueError("no")))
    return found


def served(metrics: Metrics) -> Labels:
    """The names that `/metrics` shows, with their labels."""
    found: Labels = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Labels:
    """The names that a registry hands to Ray, with their labels, after a commit and a conflict."""
    found: Labels = {}

    class Heard(ray.util.metrics.Gauge):
        def __init__(self, name: str, *args: Any, **rest: Any) -> None:
            super().__init__(name, *args, **rest)
            found[f"ray_{name}"] = set(self.info["tag_keys"])

    monkeypatch.setattr(ray.util.metrics, "Gauge", Heard)
    storage = Storage(str(tmp_path / "ledger"))
    base = {"name": "tiny", "fingerprint": "f" * 64, "template": "plain", "dtype": "float32"}
    create_or_open(storage, StoreManifest.new(base, {}, {}))

    async def play() -> None:
        acting = MeteredRegistry(storage.uri)
        for key in ("a", "b"):
            edit = Edit(f"{key}-0", f"Who leads {key}?", "t")
            await acting.commit(WaveCommit(key, "news", 0, "0" * 64, [edit]), 0)

    with pytest.raises(ConflictError):
        asyncio.run(play())
    return found


def relabelled(name: str, config: list[dict[str, Any]]) -> str:
    """The name under which Prometheus keeps a metric of Ray."""
    for rule in config:
        assert rule["source_labels"] == ["__name__"]
        match = re.fullmatch(rule["regex"], name)
        if match is not None:
            name = match.expand(rule["replacement"].replace("$", "\\"))
    return name


def ray_relabelling() -> list[dict[str, Any]]:
    """What prometheus.yml does to the names of Ray."""
    [config] = documents(FOLDER / "prometheus.yml")
    [job] = [job for job in config["scrape_configs"] if job["job_name"] == "ray"]
    found: list[dict[str, Any]] = job["metric_relabel_configs"]
    return found


def test_replicas_on_ray_get_the_names_of_a_server(metrics: Metrics) -> None:
    changes = Changes(metrics.registry).take()
    names = {f"ray_{x.name}" if x.is_gauge else f"ray_{x.name}_total" for x in changes}
    assert all(name.startswith("ray_scen_") for name in names)
    assert {relabelled(name, ray_relabelling()) for name in names} == set(served(metrics))


def test_other_names_of_ray_stay() -> None:
    for name in ("ray_serve_num_http_requests_total", "ray_node_mem_used", "scen_tokens_total"):
        assert relabelled(name, ray_relabelling()) == name


def test_the_pod_monitor_does_the_same() -> None:
    [endpoint] = of_kind("PodMonitor")["scen"]["spec"]["podMetricsEndpoints"]
    mine = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    found = [
        {mine.get(name, name): value for name, value in rule.items()}
        for rule in endpoint["metricRelabelings"]
    ]
    assert found == ray_relabelling()


def test_rules_and_boards_speak_of_what_is_exported(metrics: Metrics, registry: Labels) -> None:
    kept = {relabelled(name, ray_relabelling()): labels for name, labels in registry.items()}
    known = served(metrics) | kept
    used = {name for text in expressions() for name in metric_names(text)}
    assert used - set(known) == {"up"}  # Prometheus's own
    wrong = {
        (name, label)
        for text in expressions()
        for name, label in label_names(text)
        if name != "up" and label not in known[name] | OF_TARGETS
    }
    assert wrong == set()


def test_all_that_is_exported_is_shown(metrics: Metrics, registry: Labels) -> None:
    def family(name: str) -> str:
        return re.sub(r"_(bucket|sum|count|total)$", "", name)

    exported = {*served(metrics), *(relabelled(name, ray_relabelling()) for name in registry)}
    used = {name for text in expressions() for name in metric_names(text)}
    assert {family(name) for name in exported} == {family(name) for name in used - {"up"}}


def test_names_are_found_wherever_they_stand() -> None:
    text = 'sum by (le, job) (rate(a_total{x="b_total{}", y!~"c"}[5m])) / on (job) d > bool 2 or e'
    assert metric_names(text) == {"a_total", "d", "e"}
    assert label_names(text) == {("a_total", "x"), ("a_total", "y")}


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_board_is_whole(path: Path) -> None:
    found = board(path)
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in found["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", path.read_text()))
    assert used == variables
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_rule_is_tested_when_it_fires_and_when_it_does_not() -> None:
    [found] = documents(FOLDER / "alerts_test.yml")
    cases = [case for test in found["tests"] for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    for is_firing in (True, False):
        assert {x["alertname"] for x in cases if bool(x["exp_alerts"]) == is_firing} == names
    series = " ".join(one["series"] for test in found["tests"] for one in test["input_series"])
    assert metric_names(re.sub(r"\s+", " or ", re.sub(r"\{.*?\}", "", series))) == {
        name for rule in rules() for name in metric_names(rule["expr"])
    }


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
@pytest.mark.parametrize("words", CHECKS)
def test_prometheus_agrees(words: str) -> None:
    done = subprocess.run(["promtool", *words.split()], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
