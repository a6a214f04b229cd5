"""What an answer is counted under: its version, as long as anybody looks at that version."""

from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, Counter

from scen.snapshot.open import OpenStore
from scen_serve.engine.request import Ended, Event, Piece, Routed
from scen_serve.metrics import Metrics, VersionLabels
from scen_serve.service import Service
from scen_serve.settings import EngineLimits


@pytest.fixture
def metrics(store: OpenStore) -> Metrics:
    """Of a service that is not started."""
    return Metrics(Service(store, EngineLimits()))


def answer(metrics: Metrics, version: int, score: float, tokens: int = 3) -> None:
    """Count an answer of a version."""
    told: list[Event] = []
    sink = metrics.watch(told.append)
    events: list[Event] = [Routed(version, None, score), Piece("a"), Ended("stop", 5, tokens)]
    for event in events:
        sink(event)
    assert told == events


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_each_version_has_figures_of_its_own(metrics: Metrics) -> None:
    answer(metrics, 1, -3.0)
    answer(metrics, 2, 4.0, tokens=7)
    answer(metrics, 2, 9.0)
    for name in ("request_seconds", "first_token_seconds", "route_score"):
        counts = [value(metrics, f"scen_{name}_count", version=v) for v in "12"]
        assert counts == [1, 2], name
    assert value(metrics, "scen_tokens_total", kind="completion", version="2") == 10
    assert value(metrics, "scen_requests_total", route="base", reason="stop", version="1") == 1


@pytest.mark.parametrize(
    "scores", [(-21, -16, -8, -1.5, 1.4, 1.6, 9, 21), (0.58, 0.62, 0.68, 0.97)]
)
def test_scores_of_both_kinds_of_routers_are_told_apart(
    metrics: Metrics, scores: tuple[float, ...]
) -> None:
    """Log-odds of a gate around its threshold, and sigmoids around theta: a bucket each."""
    for score in scores:
        answer(metrics, 1, score)
    edges = [
        (float(sample.labels["le"]), sample.value)
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "scen_route_score_bucket"
    ]
    found = [
        edge for (_, before), (edge, count) in pairwise([(0.0, 0.0), *edges]) if count > before
    ]
    assert len(found) == len(scores)


def test_old_versions_are_dropped_and_served_ones_are_not() -> None:
    registry = CollectorRegistry()
    counter = Counter("done", "d", ["kind", "version"], registry=registry)
    labels = VersionLabels([counter], lambda: {0, 3})
    for version in range(30):
        counter.labels("a", labels.of(Routed(version, None, None))).inc()
        counter.labels("b", labels.of(Routed(version, None, None))).inc()
    kept = {s.labels["version"] for f in registry.collect() for s in f.samples}
    assert kept == {str(v) for v in (0, 3, 24, 25, 26, 27, 28, 29)}
    assert labels.of(None) == "none"
