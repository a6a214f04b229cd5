"""Requests to an engine, their events, and the events as an asyncio stream. `ServingEngine` is what
a server needs of an engine."""

import asyncio
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

from scen.errors import ScenError
from scen.records import EncodedPrompt

if TYPE_CHECKING:
    from scen.snapshot.ask import LikelyEdit
    from scen_serve.engine.decoding import Constraints, Matcher
    from scen_serve.engine.snapshots import ServedSnapshot


log = logging.getLogger(__name__)
EndReason = Literal["stop", "length", "cancelled"]


class BusyError(ScenError, RuntimeError):
    """A valid request that cannot be answered now, such as with a full queue. Try again later."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """The form of an answer: JSON of the schema `text`, a match of the regular expression `text`,
    or one of the strings of the JSON list `text`."""

    kind: Literal["json_schema", "regex", "choice"]
    text: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters and stop conditions, named and defined as in vLLM.

    `temperature` 0 is greedy. With `seed` None each run samples another answer. `top_logprobs` None
    returns no log-probabilities; n returns those of each chosen token and of the n most likely.
    Before `min_tokens` tokens neither an end token nor one of `stop_token_ids` is chosen; with
    `ignore_eos` an end token does not end the answer. An answer with a `constraint` ends when it is
    complete.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    constraint: Constraint | None = None

    @property
    def adjusts_logits(self) -> bool:
        """True if tokens are not chosen from the model's own logits."""
        return bool(
            self.logit_bias
            or self.min_tokens
            or self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1
        )


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A prompt whose own tokens get log-probabilities: its text, the number of characters before
    each token, and the character at which the answer begins, if known."""

    text: str
    offsets: tuple[int, ...]
    answer_at: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and how to answer it. `snapshot` None means the one served when the request leaves
    the queue; with `is_edited` False the base answers, without routing. `question` is routed
    instead of the prompt, if given.

    With `scored`, an edit's expert acts from the end of the question within the prompt, so that the
    text after the question is scored as an answer.
    """

    prompt: EncodedPrompt
    sampling: Sampling = field(default_factory=Sampling)
    snapshot: "ServedSnapshot | None" = None
    is_edited: bool = True
    question: EncodedPrompt | None = None
    scored: ScoredText | None = None


@dataclass(frozen=True, slots=True)
class Routed:
    """The first event: the version that answers, the edit (None: the base), and the `span` of the
    message that matched it (None also if the router always compares the whole message). `unplaced`
    is an edit that matched, but whose answer has no place in the constraint, so the base answers.

    `prefill_s` and `route_s` are the seconds of prefill and routing for the whole batch of prompts.
    """

    version: int
    edit_id: str | None
    score: float | None  # of the nearest edit; None without edits or routing
    span: str | None = None
    unplaced: str | None = None
    prefill_s: float = 0.0
    route_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A chosen token, its log-probability, and the most likely tokens with theirs. `offset` is the
    number of characters before it."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the answer. Text may lag behind tokens, and may be empty. `prompt` holds the
    tokens of a scored prompt, except the first."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of an answer."""

    reason: EndReason
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a request that failed."""

    error: Exception


Event = Routed | Piece | Ended | Failed
Sink = Callable[[Event], None]
"""Called on the engine's thread with each event of a request, in order; must not block."""


class Ticket:
    """A submitted request, which can be cancelled."""

    def __init__(self, request: Request, sink: Sink, matcher: "Matcher | None" = None) -> None:
        self.request = request
        self.sink = sink
        self.matcher = matcher  # of the request's constraint
        self.is_cancelled = False

    def emit(self, event: Event) -> None:
        """Pass an event to the sink; if that raises, the request is cancelled."""
        try:
            self.sink(event)
        except Exception:
            log.warning("cannot deliver an event; its request is cancelled", exc_info=True)
            self.cancel()

    def cancel(self) -> None:
        """Free the row at the engine's next step."""
        self.is_cancelled = True


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """Uses of an engine's caches since its start: experts on the device, and prompt prefixes. The
    hits of prefixes are prompts with a cached one, the tokens those taken from the cache."""

    expert_hits: int = 0
    expert_misses: int = 0
    expert_evictions: int = 0
    prefix_hits: int = 0
    prefix_tokens: int = 0
    prefix_bytes: int = 0


class ServingEngine(Protocol):
    """What a server needs of an engine. It is constructed with its base loaded, and ready once
    `snapshot` is set; `run` is called once, on a thread of its own.

    All other members may be used from any thread. `snapshot` serves requests that name no version;
    assigning another one swaps it, and running answers finish on theirs.
    """

    snapshot: "ServedSnapshot | None"

    @property
    def constraints(self) -> "Constraints":
        """The compiled constraints of answers."""
        ...

    @property
    def beat(self) -> float:
        """When the engine last made progress or was idle, by `time.monotonic`."""
        ...

    @property
    def max_context(self) -> int:
        """Maximum number of tokens of a prompt and its answer together."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        ...

    @property
    def num_running(self) -> int:
        """Answers that are being generated, or wait for an expert."""
        ...

    @property
    def cache_bytes(self) -> int:
        """Size of the keys and values of running answers."""
        ...

    @property
    def counts(self) -> EngineCounts:
        """Uses of the caches since the start."""
        ...

    def submit(self, request: Request, sink: Sink) -> Ticket:
        """Queue a request; `sink` receives its events. Raises InputError for a request that can
        never be answered, BusyError if the queue is full or no snapshot is loaded."""
        ...

    def explain(
        self, snapshot: "ServedSnapshot", prompt: EncodedPrompt, count: int
    ) -> "Future[tuple[LikelyEdit, ...]]":
        """The likeliest `count` edits of a version for a prompt, best first. Cancel the future to
        skip the work. Raises BusyError if too many such requests wait."""
        ...

    def run(self, stop: threading.Event) -> None:
        """Answer requests until `stop` is set, then release what the engine holds."""
        ...


Watch = Callable[[Sink], Sink]


@dataclass
class Choice:
    """One answer, built from its events."""

    routed: Routed | None = None
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt: tuple[TokenLogprob, ...] | None = None
    ended: Ended | None = None

    def add(self, event: Event) -> None:
        """Add an event. Raises the error of a `Failed`."""
        if isinstance(event, Routed):
            self.routed = event
        elif isinstance(event, Piece):
            self.text += event.text
            self.logprobs.extend(event.logprobs)
            self.prompt = event.prompt if self.prompt is None else self.prompt
        elif isinstance(event, Ended):
            self.ended = event
        else:
            raise event.error


class ResponseStream:
    """The events of requests that are answered together. Cancel it when the client is gone."""

    def __init__(
        self,
        engine: ServingEngine,
        requests: Sequence[Request],
        timeout_s: float,
        watch: Watch = lambda sink: sink,
        routes: Sequence[Routed | None] = (),
    ) -> None:
        """Submit all requests, or none; `watch` wraps the sink of each. `routes` are reported as
        those of the requests where they were decided before. Raises as `submit` does."""
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._until = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._count = len(requests)
        self._tickets = []
        try:
            for index, request in enumerate(requests):
                sink = watch(functools.partial(self._put, index))
                route = routes[index] if routes else None
                ticket = engine.submit(request, sink if route is None else _with_route(sink, route))
                self._tickets.append(ticket)
        except Exception:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Free the rows of all unfinished answers."""
        for ticket in self._tickets:
            ticket.cancel()

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """All events with the index of their request, until every request has ended. Raises
        BusyError after `timeout_s`."""
        unfinished = self._count
        while unfinished:
            try:
                remaining = max(0.0, self._until - time.monotonic())
                index, event = await asyncio.wait_for(self._queue.get(), remaining)
            except TimeoutError as err:
                raise BusyError(f"no answer within {self._timeout_s:g} s; try again") from err
            unfinished -= isinstance(event, Ended | Failed)
            yield index, event

    async def gather(self, *, edits_only: bool = False) -> list[Choice]:
        """All answers, complete; with `edits_only`, answers of the base are cancelled."""
        choices = [Choice() for _ in range(self._count)]
        async for index, event in self.events():
            choices[index].add(event)
            if edits_only and isinstance(event, Routed) and event.edit_id is None:
                self._tickets[index].cancel()
        return choices

    def _put(self, index: int, event: Event) -> None:
        """Called on the engine's thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))


def _with_route(sink: Sink, route: Routed) -> Sink:
    """A sink that gets this route instead of the request's own."""

    def replaced(event: Event) -> None:
        if isinstance(event, Routed):
            event = replace(route, prefill_s=event.prefill_s, route_s=event.route_s)
        sink(event)

    return replaced
