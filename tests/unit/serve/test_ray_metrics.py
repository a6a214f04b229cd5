"""What is handed on to Ray: every growth once, every gauge as it stands."""

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
