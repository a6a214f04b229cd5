"""What a service does, for Prometheus."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from scen_serve.request import Ended, Event, Failed, Piece, Routed, Sink
from scen_serve.service import Service

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_SCORES = tuple(i / 10 for i in range(-5, 16))


class Metrics:
    """Counters of one app; gauges are read when they are asked for."""

    def __init__(self, service: Service) -> None:
        self.registry = registry = CollectorRegistry()
        engine, follower = service.engine, service.follower
        counts = engine.experts.counts
        self._requests = Counter(
            "scen_requests",
            "Requests that ended",
            ["route", "reason", "version"],
            registry=registry,
        )
        self._tokens = Counter("scen_tokens", "Tokens read and told", ["kind"], registry=registry)
        self._seconds = Histogram(
            "scen_request_seconds", "Until the end", buckets=_SECONDS, registry=registry
        )
        self._first = Histogram(
            "scen_first_token_seconds",
            "From the request to its first text",
            buckets=_SECONDS,
            registry=registry,
        )
        self._score = Histogram(
            "scen_route_score", "Score of the nearest edit", buckets=_SCORES, registry=registry
        )
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "scen_running_rows": ("Answers being given", lambda: engine.num_running),
            "scen_waiting_requests": ("Requests that wait", lambda: engine.num_waiting),
            "scen_cache_bytes": ("Of keys and values", lambda: engine.cache_bytes),
            "scen_expert_shelf_bytes": ("Experts in memory", lambda: service.shelf.num_bytes),
            "scen_expert_cache_hits": ("Experts found on the device", lambda: counts.hits),
            "scen_expert_cache_misses": ("Experts copied to the device", lambda: counts.misses),
            "scen_expert_cache_evictions": ("Experts that made room", lambda: counts.evictions),
            "scen_serving_version": ("Of the snapshot; -1 is none", lambda: _version(service)),
            "scen_candidate_version": ("Of a canary; -1 is none", lambda: _candidate(service)),
            "scen_swaps": ("Snapshots swapped in", lambda: follower.swaps),
            "scen_swap_seconds": ("Time it took to load them", lambda: follower.swap_seconds),
            "scen_swap_failures": ("Looks that found a damaged store", lambda: follower.failures),
        }
        for name, (text, read) in gauges.items():
            Gauge(name, text, registry=registry).set_function(read)

    def watch(self, sink: Sink) -> Sink:
        """The same sink, and what it is told is counted."""
        began = time.perf_counter()
        routed: Routed | None = None
        is_silent = True

        def told(event: Event) -> None:
            nonlocal routed, is_silent
            if isinstance(event, Routed):
                routed = event
                if event.score is not None:
                    self._score.observe(event.score)
            elif isinstance(event, Piece) and is_silent:
                is_silent = False
                self._first.observe(time.perf_counter() - began)
            elif isinstance(event, Ended | Failed):
                self._count_end(event, routed, time.perf_counter() - began)
            sink(event)

        return told

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _count_end(self, event: Ended | Failed, routed: Routed | None, seconds: float) -> None:
        route = "none" if routed is None else "base" if routed.edit_id is None else "edit"
        version = "none" if routed is None else str(routed.version)
        reason = event.reason if isinstance(event, Ended) else "failed"
        self._requests.labels(route, reason, version).inc()
        self._seconds.observe(seconds)
        if isinstance(event, Ended):
            self._tokens.labels("prompt").inc(event.prompt_tokens)
            self._tokens.labels("completion").inc(event.completion_tokens)


def _version(service: Service) -> float:
    snapshot = service.engine.snapshot
    return -1 if snapshot is None else snapshot.version


def _candidate(service: Service) -> float:
    candidate = service.follower.candidate
    return -1 if candidate is None else candidate.version
