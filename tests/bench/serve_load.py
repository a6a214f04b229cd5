"""A closed loop of clients around an engine: each asks its next question when it has its answer."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from scen.records import EncodedPrompt
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import Ended, Event, Failed, Piece, Request, Routed, Sampling
from scen_serve.engine.snapshots import ServedSnapshot

MAX_TOKENS = 24


@dataclass
class Load:
    """What a load came to, in seconds: of the whole, of each answer, and until its first token."""

    seconds: float = 0.0
    tokens: int = 0
    latency: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    edited: int = 0

    def __add__(self, other: "Load") -> "Load":
        """Both, one after the other."""
        return Load(
            self.seconds + other.seconds,
            self.tokens + other.tokens,
            self.latency + other.latency,
            self.first + other.first,
            self.edited + other.edited,
        )

    def figures(self) -> dict[str, float]:
        """Rates, and milliseconds at the median and the 95th percentile."""
        count = len(self.latency)
        return {
            "requests": count,
            "edited": self.edited,
            "requests_per_second": round(count / self.seconds, 2),
            "tokens_per_second": round(self.tokens / self.seconds, 1),
            "latency_ms_p50": _milliseconds(self.latency, 50),
            "latency_ms_p95": _milliseconds(self.latency, 95),
            "first_token_ms_p50": _milliseconds(self.first, 50),
            "first_token_ms_p95": _milliseconds(self.first, 95),
        }


class _Asked:
    """One request, timed by its events."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._began = time.perf_counter()
        self._has_spoken = False
        self.is_done = False

    def __call__(self, event: Event) -> None:
        now = time.perf_counter() - self._began
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Routed) and event.edit_id is not None:
            self._load.edited += 1
        if isinstance(event, Piece | Ended) and not self._has_spoken:
            self._has_spoken = True
            self._load.first.append(now)
        if isinstance(event, Ended):
            self._load.latency.append(now)
            self._load.tokens += event.completion_tokens
            self.is_done = True


def run_load(
    engine: Engine, snapshot: ServedSnapshot, prompts: Sequence[EncodedPrompt], clients: int
) -> Load:
    """Ask all prompts, so many at a time, in the engine's own thread."""
    load, left, asked = Load(), list(reversed(prompts)), list[_Asked]()
    sampling = Sampling(MAX_TOKENS)
    began = time.perf_counter()
    while left or asked:
        asked = [one for one in asked if not one.is_done]
        while left and len(asked) < clients:
            one = _Asked(load)
            engine.submit(Request(left.pop(), sampling, snapshot), one)
            asked.append(one)
        engine.step()
    load.seconds = time.perf_counter() - began
    return load


def _milliseconds(seconds: list[float], percent: int) -> float:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return round(1000 * cuts[percent - 1], 1)
