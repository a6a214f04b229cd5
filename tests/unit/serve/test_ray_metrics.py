"""What is handed on to Ray: growth once; gauges, and what a version did, as they stand."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from scen_serve.ray_metrics import Changes


def test_growth_is_told_once_and_gauges_as_they_are() -> None:
    registry = CollectorRegistry()
    tokens = Counter("tokens", "t", ["kind"], registry=registry)
    rows = Gauge("rows", "r", registry=registry)
    seconds = Histogram("seconds", "s", buckets=(1, 2), registry=registry)
    changes = Changes(registry)
    tokens.labels("prompt").inc(3)
    rows.set(5)
    seconds.observe(1.5)
    assert {(c.name, c.labels): c.value for c in changes.take()} == {
        ("rows", ()): 5,
        ("seconds_bucket", (("le", "+Inf"),)): 1,
        ("seconds_bucket", (("le", "2.0"),)): 1,
        ("seconds_count", ()): 1,
        ("seconds_sum", ()): 1.5,
        ("tokens", (("kind", "prompt"),)): 3,
    }
    tokens.labels("prompt").inc(2)
    assert {c.name: (c.value, c.is_gauge) for c in changes.take()} == {
        "rows": (5, True),
        "tokens": (2, False),
    }


def test_what_a_version_did_is_told_again_until_it_is_dropped() -> None:
    registry = CollectorRegistry()
    tokens = Counter("tokens", "t", ["version"], registry=registry)
    score = Histogram("score", "s", ["version"], buckets=(1,), registry=registry)
    changes = Changes(registry)
    tokens.labels("2").inc(3)
    score.labels("2").observe(0.5)
    for _ in range(2):
        told = changes.take()
        assert {c.name: c.value for c in told} == {
            "tokens_total": 3,
            "score_bucket_total": 1,
            "score_count_total": 1,
            "score_sum_total": 0.5,
        }
        assert all(c.is_gauge for c in told)
    tokens.remove_by_labels({"version": "2"})
    score.remove_by_labels({"version": "2"})
    assert changes.take() == []
