"""Reading prompts: one pass of the base over a few of them, less the beginnings that are known, and
the route of each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.prefill import Prefill, prefill
from scen.model.route import Route
from scen_serve.prefix_cache import PrefixCache
from scen_serve.request import Routed
from scen_serve.rows import Row


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
