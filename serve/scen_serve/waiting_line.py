"""Requests whose turn has not come, first come first served."""

import threading
from collections import deque

from scen_serve.request import BusyError, Ended, Ticket


class WaitingLine:
    """At most `limit` requests. May be used by many threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tickets: deque[Ticket] = deque()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._tickets)

    def push(self, ticket: Ticket) -> None:
        """Add one at the end. Raises BusyError where too many wait."""
        with self._lock:
            if len(self._tickets) >= self._limit:
                raise BusyError(f"{self._limit} requests wait already; ask again later")
            self._tickets.append(ticket)

    def take(self, room: int, prefill_tokens: int) -> list[Ticket]:
        """The next few, at most `room`, that fit into one padded prefill; one fits always."""
        taken: list[Ticket] = []
        width = 0
        with self._lock:
            while self._tickets and len(taken) < room:
                width = max(width, len(self._tickets[0].request.prompt.ids))
                if taken and width * (len(taken) + 1) > prefill_tokens:
                    break
                taken.append(self._tickets.popleft())
        return taken

    def drop_cancelled(self) -> None:
        """Let go of those that were withdrawn."""
        with self._lock:
            gone = [ticket for ticket in self._tickets if ticket.is_cancelled]
            for ticket in gone:
                self._tickets.remove(ticket)
        for ticket in gone:
            ticket.tell(Ended("cancelled", len(ticket.request.prompt.ids), 0))
