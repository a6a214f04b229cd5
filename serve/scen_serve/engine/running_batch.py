"""Rows of the engine: prompts prefilled and routed together, and the batch of running answers."""

import bisect
import logging
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, apply_experts, copy_cache
from scen.model.decoder import run_head
from scen.model.prefill import Prefill, prefill
from scen.model.route import Route, SigmoidNeurons
from scen.model.step import RowCache, step_rows
from scen.snapshot.load import Place
from scen_serve.engine.caches import ExpertCache, PrefixCache
from scen_serve.engine.decoding import (
    Answer,
    IncrementalDetokenizer,
    adjust_logits,
    choose_token,
    new_generator,
    prompt_logprobs,
    token_logprob,
)
from scen_serve.engine.request import Piece, Routed, ScoredText, Ticket, TokenLogprob
from scen_serve.engine.snapshots import ServedSnapshot

log = logging.getLogger(__name__)
_SCORED_AT_ONCE = 64  # positions whose logits are held in memory at once


@dataclass
class Row(Answer):
    """One answer in a batch. `place` locates its expert in the store, `slot` on the device (-1:
    none). `acts_from` is the first prompt token on which the expert acts if the prompt is scored.
    """

    snapshot: ServedSnapshot
    generator: torch.Generator | None
    place: Place | None = None
    fetching: "Future[None] | None" = None
    slot: int = -1
    acts_from: int = 0

    @classmethod
    def of(cls, ticket: Ticket, snapshot: ServedSnapshot, tokenizer: Any) -> "Row":
        """The row of a request that leaves the queue."""
        sampling = ticket.request.sampling
        detokenizer = IncrementalDetokenizer(tokenizer, sampling.stop)
        return cls(ticket, detokenizer, snapshot=snapshot, generator=new_generator(sampling))

    def is_ready(self, experts: ExpertCache) -> bool:
        """True if the row has its expert, or needs none. Raises what reading the expert raised."""
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
        """Start reading the expert, unless it is in memory or being read for this row."""
        if self.place and not self.fetching and experts.host.find(self.place) is None:
            self.fetching = experts.host.prefetch(self.place)

    def release(self, experts: ExpertCache) -> None:
        """Release the slot."""
        if self.slot >= 0:
            experts.release(self.slot)
            self.slot = -1

    def take_token(self, logits_V: Tensor, stop_ids: frozenset[int]) -> bool:
        """Choose the next token and emit it; False if the answer ends."""
        sampling = self.request.sampling
        if sampling.max_tokens == 0:
            return self.end("length")
        adjusted_V = adjust_logits(
            logits_V, sampling, self.request.prompt.ids, self.output_ids, stop_ids
        )
        matcher = self.ticket.matcher
        if matcher is not None:
            adjusted_V = matcher.mask(adjusted_V)
            if not adjusted_V.isfinite().any():  # min_tokens rules out the end, all that is left
                return self.end("stop")
        token = choose_token(adjusted_V, sampling, self.generator)

        def logprob(before: int) -> TokenLogprob:
            return token_logprob(logits_V, token, sampling.top_logprobs or 0, before)

        return self.add(token, logprob, stop_ids)


@dataclass(frozen=True)
class Arrivals:
    """A prefill and its rows whose answers have not started; `rows[i]` is row i of the batch."""

    filled: Prefill
    rows: dict[int, Row]

    def slots(self, ready: Sequence[int]) -> Route:
        """The slots of these rows, as a route; all other rows run the base."""
        slot_B = [-1] * len(self.filled.batch)
        for index in ready:
            slot_B[index] = self.rows[index].slot
        return Route.fixed(slot_B, self.filled.logits_BV.device)


def read_prompts(base: Base, layer: int, rows: Sequence[Row], prefixes: PrefixCache) -> Arrivals:
    """Prefill and route prompts; sets each row's `place` and emits its `Routed`."""
    prompts = [row.request.prompt for row in rows]
    batch = pad_prompts(prompts, base.pad_id, base.device)
    layers = frozenset[int]().union(*(row.snapshot.neurons.layers for row in rows))
    # Scoring needs every position of the prompt.
    known = [] if any(row.request.scored for row in rows) else prefixes.known(prompts)
    began = time.perf_counter()
    filled = prefill(base.model, batch, layer, layers, known)
    prefixes.keep(prompts, filled)
    prefilled = time.perf_counter()
    separate = [i for i, row in enumerate(rows) if row.request.question and row.request.is_edited]
    direct = {i: row for i, row in enumerate(rows) if i not in separate}
    routes = dict(_route(filled, direct))
    if separate:  # raw text is routed in the same form as the edits' own prompts
        questions = [question for i in separate if (question := rows[i].request.question)]
        forms = pad_prompts(questions, base.pad_id, base.device)
        question_rows = dict(enumerate(rows[i] for i in separate))
        for index, routed in _route(prefill(base.model, forms, layer, layers), question_rows):
            routes[separate[index]] = routed
    route_s = time.perf_counter() - prefilled
    for index, row in enumerate(rows):
        row.ticket.emit(replace(routes[index], prefill_s=prefilled - began, route_s=route_s))
    return Arrivals(filled, dict(enumerate(rows)))


def _route(filled: Prefill, rows: dict[int, Row]) -> Iterator[tuple[int, Routed]]:
    """The route of each row of a prefill, under the row's own version."""
    routes: dict[int, Route] = {}
    for index, row in rows.items():
        request, snapshot = row.request, row.snapshot
        edit_id, score, span = None, None, None
        if request.is_edited and snapshot.places:
            if snapshot.version not in routes:
                routes[snapshot.version] = snapshot.neurons.route(filled)
            route = routes[snapshot.version]
            expert, score = int(route.expert_B[index]), float(route.score_B[index])
            if expert >= 0:
                row.place, edit_id = snapshot.places[expert], snapshot.edit_ids[expert]
                form = request.question or request.prompt
                span = form.span_text(int(route.span_B[index])) or None
                if request.scored:
                    questions = (snapshot.span(edit_id), span)
                    row.acts_from = question_end(request.scored, questions)
        yield index, Routed(snapshot.version, edit_id, score, span)


def question_end(scored: ScoredText, questions: Sequence[str | None]) -> int:
    """Index of the last token before the answer. If the start of the answer is not known, the last
    token of the first of these questions that the text contains (ignoring case, including trailing
    punctuation); else the last token of the text."""
    if scored.answer_at is not None:
        return max(0, bisect.bisect_left(scored.offsets, scored.answer_at) - 1)
    for text in questions:
        match = re.search(re.escape(text) + r"[^\w\s]*", scored.text, re.I) if text else None
        if match:
            return max(0, bisect.bisect_left(scored.offsets, match.end()) - 1)
    return len(scored.offsets) - 1


class RunningBatch:
    """At most `max_rows` running answers. A row that ends leaves and releases its expert."""

    def __init__(self, base: Base, layer: int, experts: ExpertCache, max_rows: int) -> None:
        # Each row is routed by its own snapshot, never by this model.
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
        """Size of the keys and values."""
        return self._cache.num_bytes

    def begin(self, group: Arrivals, ready: Sequence[int]) -> None:
        """Remove these rows from a prefill and take their first token; unfinished ones join the
        batch."""
        filled = group.filled
        cache = copy_cache(filled.cache)
        plain = [index for index in ready if group.rows[index].request.scored is None]
        logits_BV = apply_experts(self._edited, filled, group.slots(plain), cache)
        for index in ready:
            row = group.rows.pop(index)
            if self._open(row, filled, cache, index, logits_BV) and self._join(row, cache, index):
                self._rows.append(row)
            else:
                row.release(self._experts)

    def advance(self) -> None:
        """Take one more token of each row; rows that end leave."""
        device = self._edited.model.device
        token_B = torch.tensor([row.output_ids[-1] for row in self._rows], device=device)
        route = Route.fixed([row.slot for row in self._rows], device)
        logits_BV = step_rows(self._edited, self._cache, token_B, route)
        for index in reversed(range(len(self._rows))):
            if not self._take_token(self._rows[index], logits_BV[index]):
                self._leave(index)

    def drop_cancelled(self) -> None:
        """Remove the rows of cancelled requests."""
        for index in reversed(range(len(self._rows))):
            if self._rows[index].ticket.is_cancelled:
                self._rows[index].cancel()
                self._leave(index)

    def fail(self, error: Exception) -> None:
        """End all rows with an error."""
        for index in reversed(range(len(self._rows))):
            self._rows[index].fail(error)
            self._leave(index)

    def _open(self, row: Row, filled: Prefill, cache: Any, index: int, logits_BV: Tensor) -> bool:
        """Score the prompt if requested, then take the first token; False if the answer ends."""
        logits_V = logits_BV[index]
        if row.request.scored is not None:
            try:
                logits_V = self._score(row, row.request.scored, filled, cache, index)
            except Exception as error:
                log.exception("a prompt could not be scored")
                row.fail(error)
                return False
        return self._take_token(row, logits_V)

    @torch.no_grad()
    def _score(
        self, row: Row, scored: ScoredText, filled: Prefill, cache: Any, index: int
    ) -> Tensor:
        """Emit the log-probabilities of the prompt's tokens; returns logits_V after the prompt. In
        `cache`, the row's keys and values are replaced from where its expert acts."""
        edited, ids = self._edited, row.request.prompt.ids
        width = filled.batch.ids_BP.shape[1]
        begin = width - len(ids)  # the padding is on the left
        split = filled.split(torch.tensor([index], device=filled.logits_BV.device), 0)
        y_1SD = split.y_BSD
        start = begin + (row.acts_from if edited.bank.span == "last" else 0)
        if row.slot >= 0:
            slot_1 = torch.tensor([row.slot], device=y_1SD.device)
            edited_1SD = edited.bank.apply(split.x_BSF[:, start:], y_1SD[:, start:], slot_1)
            y_1SD = torch.cat([y_1SD[:, :start], edited_1SD], 1)
        h_SD = split.above(edited.model, edited.layer, y_1SD)[0]
        if row.slot >= 0:
            for layer, (keys, values) in split.span.prefix.fresh.items():
                kept = cache.layers[layer]
                kept.keys, kept.values = kept.keys.clone(), kept.values.clone()
                kept.keys[index, :, start:] = keys[0, :, start:]
                kept.values[index, :, start:] = values[0, :, start:]
        top = row.request.sampling.top_logprobs or 0
        logprobs: list[TokenLogprob] = []
        for at in range(0, len(ids) - 1, _SCORED_AT_ONCE):
            until = min(at + _SCORED_AT_ONCE, len(ids) - 1)
            logits_TV = run_head(edited.model, h_SD[begin + at : begin + until])
            following = slice(at + 1, until + 1)
            logprobs += prompt_logprobs(logits_TV, ids[following], top, scored.offsets[following])
        row.ticket.emit(Piece("", prompt=tuple(logprobs)))
        last_V: Tensor = filled.logits_BV[index]  # bit-identical to the base
        return last_V if row.slot < 0 else run_head(edited.model, h_SD[-1:])[0]

    def _take_token(self, row: Row, logits_V: Tensor) -> bool:
        """Take one token of a row; False if its answer ends, also by an error."""
        try:
            return row.take_token(logits_V, self._edited.stop_ids)
        except Exception as error:
            log.exception("an answer failed")
            row.fail(error)
            return False

    def _join(self, row: Row, cache: Any, index: int) -> bool:
        """Copy a row's keys and values into the batch; False if that fails, which ends its answer
        with an error."""
        try:
            self._cache.join(cache, index, len(row.request.prompt.ids))
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
