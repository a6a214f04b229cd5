"""The engine: each step advances all running answers by one token; rows join and leave in between.

The base alone prefills a prompt, which is then routed. Rows routed to an edit are run again from
their last token with its expert, once that is in memory. No step reads from the store.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from scen.errors import InputError
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel
from scen.records import EncodedPrompt
from scen.snapshot.ask import LikelyEdit, likely_edits
from scen_serve.engine.caches import ExpertCache, PrefixCache
from scen_serve.engine.decoding import Constraints
from scen_serve.engine.request import (
    BusyError,
    Ended,
    EngineCounts,
    Failed,
    Request,
    Sink,
    Ticket,
)
from scen_serve.engine.running_batch import Arrivals, Row, RunningBatch, read_prompts
from scen_serve.engine.snapshots import ServedSnapshot
from scen_serve.settings import EngineLimits

log = logging.getLogger(__name__)
_IDLE_S = 0.02
_MAX_TASKS = 16


class RequestQueue:
    """FIFO queue of at most `limit` requests. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tickets: deque[Ticket] = deque()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._tickets)

    def push(self, ticket: Ticket) -> None:
        """Append a request. Raises BusyError if the queue is full."""
        with self._lock:
            if len(self._tickets) >= self._limit:
                raise BusyError(f"{self._limit} requests wait already; try again later")
            self._tickets.append(ticket)

    def take(self, room: int, prefill_tokens: int) -> list[Ticket]:
        """The next requests, at most `room`, that fit into one padded prefill; one always fits."""
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
        """Remove cancelled requests."""
        with self._lock:
            cancelled = [ticket for ticket in self._tickets if ticket.is_cancelled]
            for ticket in cancelled:
                self._tickets.remove(ticket)
        for ticket in cancelled:
            ticket.emit(Ended("cancelled", len(ticket.request.prompt.ids), 0))


T = TypeVar("T")


class Engine:
    """Answers requests with one base and the experts of many versions of one store.

    `submit` may be called from any thread, `step` from one only. `snapshot` serves requests that
    name no version: assigning another one swaps it.
    """

    def __init__(self, base: Base, layer: int, experts: ExpertCache, limits: EngineLimits) -> None:
        self.base = base
        self.limits = limits
        self.experts = experts
        # If experts act on the whole prompt, its keys and values depend on them.
        self.prefixes = PrefixCache(limits.prefix_bytes if experts.bank.span == "last" else 0)
        self.constraints = Constraints(base)
        self.snapshot: ServedSnapshot | None = None
        self.beat = time.monotonic()  # when the last step began
        self._layer = layer
        self._waiting = RequestQueue(limits.max_waiting)
        self._arrivals: list[Arrivals] = []
        self._running = RunningBatch(base, layer, experts, limits.max_rows)
        self._wake = threading.Event()
        self._tasks: queue.Queue[Callable[[], None]] = queue.Queue(_MAX_TASKS)

    @property
    def max_context(self) -> int:
        """Maximum number of tokens of a prompt and its answer together."""
        return min(self.limits.max_context, int(self.base.model.config.max_position_embeddings))

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Rows that are running or waiting for an expert."""
        return len(self._running) + sum(len(group.rows) for group in self._arrivals)

    @property
    def cache_bytes(self) -> int:
        """Size of the keys and values of all rows."""
        return self._running.num_bytes

    @property
    def counts(self) -> EngineCounts:
        """Uses of the caches since the start."""
        experts, prefixes = self.experts.counts, self.prefixes.counts
        return EngineCounts(
            experts.hits,
            experts.misses,
            experts.evictions,
            prefixes.hits,
            prefixes.tokens,
            self.prefixes.num_bytes,
        )

    def submit(self, request: Request, sink: Sink) -> Ticket:
        """As `ServingEngine.submit`."""
        check_request(request, self.base.model.config.vocab_size, self.max_context)
        if request.snapshot is None and self.snapshot is None:
            raise BusyError("no snapshot of the store is loaded yet; try again in a moment")
        constraint = request.sampling.constraint
        matcher = None if constraint is None else self.constraints.matcher(constraint)
        ticket = Ticket(request, sink, matcher)
        self._waiting.push(ticket)
        self._wake.set()
        return ticket

    def explain(
        self, snapshot: ServedSnapshot, prompt: EncodedPrompt, count: int
    ) -> "Future[tuple[LikelyEdit, ...]]":
        """As `ServingEngine.explain`."""

        def nearest() -> tuple[LikelyEdit, ...]:
            base, bank = self.base, self.experts.bank
            edited = EditedModel(
                base.model, self._layer, bank, snapshot.neurons, base.pad_id, base.stop_ids
            )
            filled = edited.prefill(pad_prompts([prompt], base.pad_id, base.device))
            return likely_edits(edited, filled, 0, snapshot.edit_ids, count)

        return self.between_steps(nearest)

    def between_steps(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` on the engine's thread, the only one that may run the base, before a step; one
        task per step. Cancel the future to skip it. Raises BusyError if too many tasks wait."""
        done: Future[T] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)

        try:
            self._tasks.put_nowait(run)
        except queue.Full:
            raise BusyError(f"{_MAX_TASKS} such requests wait already; try again") from None
        self._wake.set()
        return done

    def step(self) -> bool:
        """Let rows leave and join, then advance each by one token; False if there was no work."""
        self.beat = time.monotonic()
        has_worked = self._run_task()
        self._drop_cancelled()
        room = self.limits.max_rows - self.num_running
        tickets = self._waiting.take(room, self.limits.prefill_tokens)
        self._read(tickets)
        settled = sum(self._settle(group) for group in self._arrivals)
        self._arrivals = [group for group in self._arrivals if group.rows]
        if len(self._running):
            self._advance()
        return bool(has_worked or tickets or settled or len(self._running))

    def run(self, stop: threading.Event) -> None:
        """Step until `stop` is set; sleeps while idle."""
        while not stop.is_set():
            if not self.step():
                self._wake.wait(_IDLE_S)
                self._wake.clear()

    def _run_task(self) -> bool:
        try:
            self._tasks.get_nowait()()
        except queue.Empty:
            return False
        return True

    def _drop_cancelled(self) -> None:
        self._waiting.drop_cancelled()
        for group in self._arrivals:
            for index in [i for i, row in group.rows.items() if row.ticket.is_cancelled]:
                group.rows.pop(index).cancel()
        self._running.drop_cancelled()

    def _read(self, tickets: Sequence[Ticket]) -> None:
        """Prefill; if it fails, each prompt is retried alone, so that only the faulty one fails."""
        if not tickets:
            return
        newest = self.snapshot
        rows = []
        for ticket in tickets:
            snapshot = ticket.request.snapshot or newest
            assert snapshot is not None  # checked by `submit`, and never unset
            rows.append(Row.of(ticket, snapshot, self.base.tokenizer))
        try:
            self._arrivals.append(read_prompts(self.base, self._layer, rows, self.prefixes))
        except Exception as error:  # the other requests must still be answered
            if len(tickets) > 1:
                for ticket in tickets:
                    self._read([ticket])
                return
            log.exception("a prompt of %d tokens failed", len(tickets[0].request.prompt.ids))
            tickets[0].emit(Failed(error))

    def _settle(self, group: Arrivals) -> int:
        """Start answers whose experts are ready, prefetch the others; the number started."""
        ready = []
        for index, row in list(group.rows.items()):
            try:
                if row.is_ready(self.experts):
                    ready.append(index)
                else:
                    row.prefetch(self.experts)
            except Exception as error:
                group.rows.pop(index).fail(error)
        if not ready:
            return 0
        try:
            self._running.begin(group, ready)
        except Exception as error:
            log.exception("%d answers failed at their first token", len(ready))
            for row in [group.rows.pop(index) for index in ready if index in group.rows]:
                row.release(self.experts)
                row.fail(error)
        return len(ready)

    def _advance(self) -> None:
        try:
            self._running.advance()
        except Exception as error:
            log.exception("%d running answers failed", len(self._running))
            self._running.fail(error)


def check_request(request: Request, vocab_size: int, max_context: int) -> None:
    """Raises InputError for a request that can never be answered."""
    ids, sampling = request.prompt.ids, request.sampling
    if len(ids) + sampling.max_tokens > max_context:
        raise InputError(
            f"prompt: its {len(ids)} tokens and max_tokens {sampling.max_tokens} exceed the "
            f"{max_context} tokens of this model's context; shorten one of them"
        )
    if not ids or min(ids) < 0 or max(ids) >= vocab_size:
        raise InputError("prompt: has no tokens, or ids outside the base's vocabulary")
    if sampling.min_tokens > sampling.max_tokens:
        raise InputError(
            f"min_tokens: {sampling.min_tokens} exceeds max_tokens {sampling.max_tokens}"
        )
    biased = [token_id for token_id, _ in sampling.logit_bias]
    for name, listed in (("stop_token_ids", sampling.stop_token_ids), ("logit_bias", biased)):
        wrong = [token for token in listed if not 0 <= token < vocab_size]
        if wrong:
            raise InputError(f"{name}: {wrong[0]} is not a token of the base")
