"""Rows of the engine: prompts read and routed together, and the batch of running answers."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, apply_experts, copy_cache
from scen.model.prefill import Prefill, prefill
from scen.model.route import Route, SigmoidNeurons
from scen.model.step import RowCache, step_rows
from scen.snapshot.load import Place
from scen_serve.engine.detokenizer import IncrementalDetokenizer
from scen_serve.engine.expert_cache import ExpertCache
from scen_serve.engine.prefix_cache import PrefixCache
from scen_serve.engine.request import Ended, EndReason, Failed, Piece, Routed, Ticket, TokenLogprob
from scen_serve.engine.sampling import choose_token, new_generator, token_logprob
from scen_serve.engine.snapshots import ServedSnapshot


@dataclass
class Row:
    """One answer. `place` is that of its expert, `slot` where on the device it is (-1: none)."""

    ticket: Ticket
    snapshot: ServedSnapshot
    transcript: IncrementalDetokenizer
    draw: torch.Generator | None
    place: Place | None = None
    fetching: "Future[None] | None" = None
    slot: int = -1
    last_token: int = -1
    num_tokens: int = 0

    @classmethod
    def of(cls, ticket: Ticket, snapshot: ServedSnapshot, tokenizer: Any) -> "Row":
        """The row of a request whose turn has come."""
        sampling = ticket.request.sampling
        transcript = IncrementalDetokenizer(tokenizer, sampling.stop)
        return cls(ticket, snapshot, transcript, new_generator(sampling))

    def is_ready(self, experts: ExpertCache) -> bool:
        """True where the row has its expert, or needs none. Raises what reading the expert did."""
        if self.place is None:
            return True
        if self.fetching is not None and self.fetching.done():
            self.fetching.result()
            self.fetching = None
        slot = experts.acquire(self.place)
        if slot is not None:
            self.slot = slot
        return slot is not None

    def prefetch(self, experts: ExpertCache) -> None:
        """Have the expert read, where it is not in memory and nobody reads it for this row."""
        if self.place and not self.fetching and experts.host.find(self.place) is None:
            self.fetching = experts.host.prefetch(self.place)

    def release(self, experts: ExpertCache) -> None:
        """Give the slot back."""
        if self.slot >= 0:
            experts.release(self.slot)
            self.slot = -1

    def speak(self, logits_V: Tensor, stop_ids: frozenset[int]) -> bool:
        """Choose the next token and tell it; False where the answer ends with it."""
        sampling = self.ticket.request.sampling
        token = choose_token(logits_V, sampling, self.draw)
        if token in stop_ids:
            return self._end("stop")
        self.last_token, self.num_tokens = token, self.num_tokens + 1
        logprobs: tuple[TokenLogprob, ...] = ()
        if sampling.top_logprobs is not None:
            before = self.transcript.length
            logprobs = (token_logprob(logits_V, token, sampling.top_logprobs, before),)
        text = self.transcript.push(token)
        if text or logprobs:
            self.ticket.tell(Piece(text, logprobs))
        if self.transcript.is_stopped:
            return self._end("stop")
        return self.num_tokens < sampling.max_tokens or self._end("length")

    def cancel(self) -> None:
        """Tell that nothing more comes."""
        self._tell_end("cancelled")

    def fail(self, error: Exception) -> None:
        """Tell that there is no answer."""
        self.ticket.tell(Failed(error))

    def _end(self, reason: EndReason) -> bool:
        rest = self.transcript.finish()
        if rest:
            self.ticket.tell(Piece(rest))
        self._tell_end("stop" if self.transcript.is_stopped else reason)
        return False

    def _tell_end(self, reason: EndReason) -> None:
        self.ticket.tell(Ended(reason, len(self.ticket.request.prompt.ids), self.num_tokens))


@dataclass(frozen=True)
class Arrivals:
    """Prompts of one prefill whose answers have not begun; `rows[i]` is row i of it."""

    filled: Prefill
    rows: dict[int, Row]

    def slots(self, ready: Sequence[int]) -> Route:
        """The slots of the rows that are ready, as a route; the others are left to the base."""
        slot_B = [-1] * len(self.filled.batch)
        for index in ready:
            slot_B[index] = self.rows[index].slot
        return Route.fixed(slot_B, self.filled.logits_BV.device)


def read_prompts(base: Base, layer: int, rows: Sequence[Row], prefixes: PrefixCache) -> Arrivals:
    """Prefill and route; each row learns the place of its expert, each client its route."""
    prompts = [row.ticket.request.prompt for row in rows]
    batch = pad_prompts(prompts, base.pad_id, base.device)
    layers = frozenset[int]().union(*(row.snapshot.neurons.layers for row in rows))
    began = time.perf_counter()
    filled = prefill(base.model, batch, layer, layers, prefixes.known(prompts))
    prefixes.keep(prompts, filled)
    read = time.perf_counter()
    told = _route(filled, rows)
    spent = time.perf_counter() - read
    for row, routed in zip(rows, told, strict=True):
        row.ticket.tell(replace(routed, prefill_s=read - began, route_s=spent))
    return Arrivals(filled, dict(enumerate(rows)))


def _route(filled: Prefill, rows: Sequence[Row]) -> list[Routed]:
    """Each row's expert, under the row's own version."""
    routes: dict[int, Route] = {}
    told = []
    for index, row in enumerate(rows):
        snapshot, edit_id, score, span = row.snapshot, None, None, None
        if row.ticket.request.is_edited and snapshot.places:
            if snapshot.version not in routes:
                routes[snapshot.version] = snapshot.neurons.route(filled)
            route = routes[snapshot.version]
            expert, score = int(route.expert_B[index]), float(route.score_B[index])
            if expert >= 0:
                row.place, edit_id = snapshot.places[expert], snapshot.edit_ids[expert]
                span = row.ticket.request.prompt.span_text(int(route.span_B[index])) or None
        told.append(Routed(snapshot.version, edit_id, score, span))
    return told


log = logging.getLogger(__name__)


class RunningBatch:
    """At most `max_rows` answers. A row that ends leaves at once and gives its expert back."""

    def __init__(self, base: Base, layer: int, experts: ExpertCache, max_rows: int) -> None:
        # The experts are chosen by each row's own snapshot, never by this model.
        none = SigmoidNeurons(layer, torch.zeros(0, base.model.config.intermediate_size), 1.0)
        self._edited = EditedModel(
            base.model, layer, experts.bank, none, base.pad_id, base.stop_ids
        )
        self._experts = experts
        self._rows: list[Row] = []
        self._cache = RowCache(max_rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """Of keys and values."""
        return self._cache.num_bytes

    def begin(self, group: Arrivals, ready: Sequence[int]) -> None:
        """The first token of these rows of a prefill, which they leave; those that go on join the
        batch."""
        filled = group.filled
        cache = copy_cache(filled.cache)
        logits_BV = apply_experts(self._edited, filled, group.slots(ready), cache)
        for index in ready:
            row = group.rows.pop(index)
            if self._speak(row, logits_BV[index]) and self._join(row, cache, index):
                self._rows.append(row)
            else:
                row.release(self._experts)

    def advance(self) -> None:
        """One more token of each row; those that end leave."""
        device = self._edited.model.device
        token_B = torch.tensor([row.last_token for row in self._rows], device=device)
        route = Route.fixed([row.slot for row in self._rows], device)
        logits_BV = step_rows(self._edited, self._cache, token_B, route)
        for index in reversed(range(len(self._rows))):
            if not self._speak(self._rows[index], logits_BV[index]):
                self._leave(index)

    def drop_cancelled(self) -> None:
        """Let the rows of clients who went away leave."""
        for index in reversed(range(len(self._rows))):
            if self._rows[index].ticket.is_cancelled:
                self._rows[index].cancel()
                self._leave(index)

    def fail(self, error: Exception) -> None:
        """End all rows with an error."""
        for index in reversed(range(len(self._rows))):
            self._rows[index].fail(error)
            self._leave(index)

    def _speak(self, row: Row, logits_V: Tensor) -> bool:
        """One token of a row; False where its answer ends, if only by an error of its own."""
        try:
            return row.speak(logits_V, self._edited.stop_ids)
        except Exception as error:
            log.exception("an answer failed")
            row.fail(error)
            return False

    def _join(self, row: Row, cache: Any, index: int) -> bool:
        """Take over a row's keys and values; False where there is no room, which ends its answer
        with an error."""
        try:
            self._cache.join(cache, index, len(row.ticket.request.prompt.ids))
        except Exception as error:
            log.exception("an answer could not join the batch")
            row.fail(error)
            return False
        return True

    def _leave(self, index: int) -> None:
        self._rows[index].release(self._experts)
        self._cache.leave(index)
        self._rows[index] = self._rows[-1]
        self._rows.pop()
