"""The metrics of a replica, handed on to Ray, which exports those of the whole cluster."""

import threading
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from ray.util.metrics import Counter, Gauge

_EVERY_S = 5.0
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What there is to tell of one sample: by how much it grew, or where a gauge stands."""

    name: str
    text: str
    labels: Labels
    value: float
    is_gauge: bool


class Changes:
    """What became of a registry since it was last looked at. Histograms are their counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._seen: dict[tuple[str, Labels], float] = {}

    def take(self) -> list[Change]:
        """Every gauge and every count of a version as it stands; of other counts, what they grew.

        To Ray, a count of a version is a gauge: Ray forgets a gauge that is told no more, and a
        counter never, however many versions there were.
        """
        found = []
        for family in self._registry.collect():
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                name, labels = sample.name.removesuffix("_total"), tuple(sample.labels.items())
                text = family.documentation
                if family.type == "gauge":
                    found.append(Change(name, text, labels, sample.value, True))
                elif "version" in sample.labels:
                    found.append(Change(f"{name}_total", text, labels, sample.value, True))
                elif (grown := sample.value - self._seen.get((name, labels), 0.0)) > 0:
                    self._seen[name, labels] = sample.value
                    found.append(Change(name, text, labels, grown, False))
        return found


class RayMetrics:
    """Hands the samples of a registry on under their own names, with `ray_` before them.

    All counts, of histograms too, end in `_total` (`ray_scen_tokens_total`, and for histograms
    `ray_scen_request_seconds_bucket_total`): a histogram of Ray's own would tell a wrong sum.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._changes = Changes(registry)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}

    def run(self, stop: threading.Event) -> None:
        """Hand on every few seconds until told to stop."""
        while not stop.wait(_EVERY_S):
            for change in self._changes.take():
                self._tell(change)

    def _tell(self, change: Change) -> None:
        name, text, keys = change.name, change.text, tuple(key for key, _ in change.labels)
        if change.is_gauge:
            gauge = self._gauges.get(name) or Gauge(name, text, keys)
            self._gauges[name] = gauge
            gauge.set(change.value, dict(change.labels))
        else:
            counter = self._counters.get(name) or Counter(name, text, keys)
            self._counters[name] = counter
            counter.inc(change.value, dict(change.labels))
