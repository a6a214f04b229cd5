"""From the event loop to the engine's thread and back: the requests of one call."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from scen_serve.engine import Engine
from scen_serve.request import (
    BusyError,
    Ended,
    Event,
    Failed,
    Piece,
    Request,
    Routed,
    Sink,
    TokenChance,
)

Watch = Callable[[Sink], Sink]


@dataclass
class Choice:
    """One answer, as far as it is told."""

    routed: Routed | None = None
    text: str = ""
    chances: list[TokenChance] = field(default_factory=list)
    ended: Ended | None = None

    def add(self, event: Event) -> None:
        """Take in an event. Raises the error of one that failed."""
        if isinstance(event, Routed):
            self.routed = event
        elif isinstance(event, Piece):
            self.text += event.text
            self.chances.extend(event.chances)
        elif isinstance(event, Ended):
            self.ended = event
        else:
            raise event.error


class Asking:
    """Requests that are answered together. Cancel it when nobody listens any more."""

    def __init__(
        self, engine: Engine, requests: Sequence[Request], timeout_s: float, watch: Watch
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
