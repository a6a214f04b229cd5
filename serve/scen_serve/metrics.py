"""Prometheus metrics of a service."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from scen.tracking.traces import TraceWriter
from scen_serve.engine.request import Ended, Event, Failed, Piece, Routed, Sink
from scen_serve.service import Service
from scen_serve.telemetry import Traces

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_KEPT = 8
NO_VERSION = "none"


class VersionLabels:
    """Keeps the label sets of served and most recently used versions, and drops all others from the
    metrics. Thread-safe.

    `live` returns the served versions. At most 8 versions are kept, or all live ones if more.
    """

    def __init__(
        self, metrics: Sequence[MetricWrapperBase], live: Callable[[], Collection[int]]
    ) -> None:
        self._metrics = metrics
        self._live = live
        self._used: OrderedDict[int, None] = OrderedDict()  # most recently used last
        self._lock = threading.Lock()

    def of(self, routed: Routed | None) -> str:
        """The label of a route's version; `none` without a route."""
        if routed is None:
            return NO_VERSION
        with self._lock:
            is_new = routed.version not in self._used
            self._used[routed.version] = None
            self._used.move_to_end(routed.version)
            if is_new and len(self._used) > _KEPT:
                self._drop_others()
        return str(routed.version)

    def _drop_others(self) -> None:
        live = set(self._live())
        for version in [used for used in self._used if used not in live]:
            if len(self._used) <= _KEPT:
                break
            del self._used[version]
            for metric in self._metrics:
                metric.remove_by_labels({"version": str(version)})


# A gate's scores are log-odds (about -20 to 20); a cosine or a sigmoid is in 0 to 1.
_SCORES = (
    *(-20, -15, -10, -7, -5, -4, -3, -2, -1, -0.5, 0),
    *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1),
    *(1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5, 7, 10, 15, 20),
)


class Metrics:
    """Counters of one app; gauges are read at collection time."""

    def __init__(self, service: Service, traces: Traces | None = None) -> None:
        self.registry = registry = CollectorRegistry()
        engine, follower = service.engine, service.follower
        self._requests = Counter(
            "scen_requests",
            "Requests that ended",
            ["route", "reason", "version"],
            registry=registry,
        )
        self._tokens = Counter(
            "scen_tokens", "Tokens of prompts and answers", ["kind", "version"], registry=registry
        )
        self._seconds = Histogram(
            "scen_request_seconds",
            "From the request to the end of its answer",
            ["version"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "scen_first_token_seconds",
            "From the request to its first text",
            ["version"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._score = Histogram(
            "scen_route_score",
            "Score of the nearest edit",
            ["version"],
            buckets=_SCORES,
            registry=registry,
        )
        counted = (self._requests, self._tokens, self._seconds, self._first, self._score)
        self._versions = VersionLabels(counted, lambda: served_versions(service))
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "scen_running_rows": ("Answers being generated", lambda: engine.num_running),
            "scen_waiting_requests": ("Requests in the queue", lambda: engine.num_waiting),
            "scen_cache_bytes": ("Keys and values of running rows", lambda: engine.cache_bytes),
            "scen_expert_shelf_bytes": ("Experts in memory", lambda: service.host.num_bytes),
            "scen_expert_cache_hits": (
                "Experts already on the device",
                lambda: engine.counts.expert_hits,
            ),
            "scen_expert_cache_misses": (
                "Experts copied to the device",
                lambda: engine.counts.expert_misses,
            ),
            "scen_expert_cache_evictions": (
                "Experts evicted from the device",
                lambda: engine.counts.expert_evictions,
            ),
            "scen_prefix_cache_hits": (
                "Prompts with a cached prefix",
                lambda: engine.counts.prefix_hits,
            ),
            "scen_prefix_cache_tokens": (
                "Prompt tokens taken from the cache",
                lambda: engine.counts.prefix_tokens,
            ),
            "scen_prefix_cache_bytes": (
                "Size of the prefix cache",
                lambda: engine.counts.prefix_bytes,
            ),
            "scen_serving_version": ("Served version; -1: none", lambda: _version(service)),
            "scen_candidate_version": (
                "Version of a canary; -1: none",
                lambda: _candidate(service),
            ),
            "scen_swaps": ("Snapshots swapped in", lambda: follower.swaps),
            "scen_swap_seconds": ("Time spent loading snapshots", lambda: follower.swap_seconds),
            "scen_swap_failures": ("Checks of the store that failed", lambda: follower.failures),
        }
        if traces is not None:
            gauges |= _trace_gauges(traces.writer)
        for name, (text, read) in gauges.items():
            Gauge(name, text, registry=registry).set_function(read)

    def watch(self, sink: Sink) -> Sink:
        """A sink that counts events and passes them on to `sink`."""
        began = time.perf_counter()
        routed: Routed | None = None
        is_silent = True

        def counted(event: Event) -> None:
            nonlocal routed, is_silent
            if isinstance(event, Routed):
                routed = event
                if event.score is not None:
                    self._score.labels(self._versions.of(event)).observe(event.score)
            elif isinstance(event, Piece) and is_silent:
                is_silent = False
                waited = time.perf_counter() - began
                self._first.labels(self._versions.of(routed)).observe(waited)
            elif isinstance(event, Ended | Failed):
                self._count_end(event, routed, time.perf_counter() - began)
            sink(event)

        return counted

    def text(self) -> bytes:
        """All metrics in Prometheus text format."""
        return generate_latest(self.registry)

    def _count_end(self, event: Ended | Failed, routed: Routed | None, seconds: float) -> None:
        route = "none" if routed is None else "base" if routed.edit_id is None else "edit"
        version = self._versions.of(routed)
        reason = event.reason if isinstance(event, Ended) else "failed"
        self._requests.labels(route, reason, version).inc()
        self._seconds.labels(version).observe(seconds)
        if isinstance(event, Ended):
            self._tokens.labels("prompt", version).inc(event.prompt_tokens)
            self._tokens.labels("completion", version).inc(event.completion_tokens)


def served_versions(service: Service) -> set[int]:
    """The served version, and a canary's if there is one."""
    snapshots = (service.engine.snapshot, service.follower.candidate)
    return {snapshot.version for snapshot in snapshots if snapshot is not None}


def _trace_gauges(writer: TraceWriter) -> dict[str, tuple[str, Callable[[], float]]]:
    return {
        "scen_traces_written": ("Traces written to MLflow", lambda: writer.written),
        "scen_traces_dropped": ("Traces dropped from a full queue", lambda: writer.dropped),
        "scen_traces_failed": ("Traces refused by MLflow", lambda: writer.failed),
    }


def _version(service: Service) -> float:
    snapshot = service.engine.snapshot
    return -1 if snapshot is None else snapshot.version


def _candidate(service: Service) -> float:
    candidate = service.follower.candidate
    return -1 if candidate is None else candidate.version
