"""Requests to the engine, the events that answer them, and the events as an asyncio stream."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from scen.errors import ScenError
from scen.records import EncodedPrompt

if TYPE_CHECKING:
    from scen_serve.engine.engine import Engine
    from scen_serve.engine.snapshots import ServedSnapshot


log = logging.getLogger(__name__)
EndReason = Literal["stop", "length", "cancelled"]


class BusyError(ScenError, RuntimeError):
    """Nothing is wrong with the request: there is no room, or no snapshot yet. Ask again later."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and when to end.

    `temperature` 0 is greedy. `seed` None draws another answer each time. `top_logprobs` None
    tells no probabilities, n those of each chosen token and of the n likeliest.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and how to answer it. `snapshot` None is the one served when its turn comes;
    with `is_edited` False the base answers, whatever the router says."""

    prompt: EncodedPrompt
    sampling: Sampling = field(default_factory=Sampling)
    snapshot: "ServedSnapshot | None" = None
    is_edited: bool = True


@dataclass(frozen=True, slots=True)
class Routed:
    """The first event: which version answers, by which edit (None: the base), and which part of
    the message asked for it (None also where the whole of it is always taken).

    `prefill_s` and `route_s` are the seconds that reading and routing took, for all prompts that
    were read together."""

    version: int
    edit_id: str | None
    score: float | None  # of the nearest edit; None where there is no edit or routing is off
    span: str | None = None
    prefill_s: float = 0.0
    route_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A chosen token, its log-probability, and the likeliest tokens with theirs. `offset` is the
    number of characters of the answer before it."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """More of the answer. Text may lag behind tokens, and may be empty."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of an answer."""

    reason: EndReason
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event where there is no answer."""

    error: Exception


Event = Routed | Piece | Ended | Failed
Sink = Callable[[Event], None]
"""Called by the engine's thread with each event of a request, in order; must not wait."""


class Ticket:
    """A request that was handed in, and the way to withdraw it."""

    def __init__(self, request: Request, sink: Sink) -> None:
        self.request = request
        self.sink = sink
        self.is_cancelled = False

    def tell(self, event: Event) -> None:
        """Hand an event to the client; one who cannot take it has gone away."""
        try:
            self.sink(event)
        except Exception:
            log.warning("a client can no longer be told", exc_info=True)
            self.cancel()

    def cancel(self) -> None:
        """Free the row at the engine's next step."""
        self.is_cancelled = True


Watch = Callable[[Sink], Sink]


@dataclass
class Choice:
    """One answer, as far as it is told."""

    routed: Routed | None = None
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ended: Ended | None = None

    def add(self, event: Event) -> None:
        """Take in an event. Raises the error of one that failed."""
        if isinstance(event, Routed):
            self.routed = event
        elif isinstance(event, Piece):
            self.text += event.text
            self.logprobs.extend(event.logprobs)
        elif isinstance(event, Ended):
            self.ended = event
        else:
            raise event.error


class ResponseStream:
    """Requests that are answered together. Cancel it when nobody listens any more."""

    def __init__(
        self, engine: "Engine", requests: Sequence[Request], timeout_s: float, watch: Watch
    ) -> None:
        """Hand in all requests, or none; `watch` sees each one's events on their way. Raises as
        `Engine.submit` does."""
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._until = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._count = len(requests)
        self._tickets = []
        try:
            for index, request in enumerate(requests):
                ticket = engine.submit(request, watch(functools.partial(self._tell, index)))
                self._tickets.append(ticket)
        except Exception:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Free the rows of all answers that are not finished."""
        for ticket in self._tickets:
            ticket.cancel()

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """All events with the number of their request, until each has its last. Raises BusyError
        where that takes too long."""
        left = self._count
        while left:
            try:
                remaining = max(0.0, self._until - time.monotonic())
                index, event = await asyncio.wait_for(self._queue.get(), remaining)
            except TimeoutError as err:
                raise BusyError(f"no answer within {self._timeout_s:g} s; ask again") from err
            left -= isinstance(event, Ended | Failed)
            yield index, event

    async def gather(self) -> list[Choice]:
        """All answers, whole."""
        choices = [Choice() for _ in range(self._count)]
        async for index, event in self.events():
            choices[index].add(event)
        return choices

    def _tell(self, index: int, event: Event) -> None:
        """Called on the engine's thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))
