"""Routes of prompts from the keys that vLLM's workers send, in batches."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch

from scen.model.keys import KeyPlace, SpanKeys, reads_spans
from scen.model.route import SigmoidNeurons
from scen.records import EncodedPrompt
from scen.routing.neurons import KeyNeurons
from scen_serve.engine.request import Request, Routed
from scen_serve.engine.snapshots import ServedSnapshot
from scen_vllm.link import Key
from scen_vllm.wish import routed_spans

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PromptRoute:
    """The route of one prompt: its event, and the index of the edit in its snapshot (-1: none)."""

    routed: Routed
    expert: int = -1


@dataclass(frozen=True, slots=True)
class _Asked:
    snapshot: ServedSnapshot
    form: EncodedPrompt
    key: Key
    future: "asyncio.Future[PromptRoute]"


def routed_form(request: Request, places: Sequence[KeyPlace]) -> EncodedPrompt:
    """The form in which a request is routed: its question, normalised if spans are compared."""
    form = request.question or request.prompt
    return (form.routed or form) if reads_spans(tuple(places)) else form


class BatchRouter:
    """Routes all prompts at once whose keys came meanwhile. Used on one event loop; the search
    runs on `executor`."""

    def __init__(self, places: tuple[KeyPlace, ...], executor: Executor) -> None:
        self._places = places
        self._executor = executor
        self._asked: list[_Asked] = []
        self._task: asyncio.Task[None] | None = None

    async def route(self, snapshot: ServedSnapshot, form: EncodedPrompt, key: Key) -> PromptRoute:
        """The route of a prompt under a version; `form` is what was read."""
        loop = asyncio.get_running_loop()
        asked = _Asked(snapshot, form, key, loop.create_future())
        self._asked.append(asked)
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
        return await asked.future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._asked:
                batch, self._asked = self._asked, []
                try:
                    routes = await loop.run_in_executor(self._executor, self._route, batch)
                except Exception as error:
                    log.exception("%d prompts could not be routed", len(batch))
                    for asked in batch:
                        if not asked.future.done():
                            asked.future.set_exception(error)
                    continue
                for asked, result in zip(batch, routes, strict=True):
                    if not asked.future.done():
                        asked.future.set_result(result)
        finally:
            self._task = None

    def _route(self, batch: Sequence[_Asked]) -> list[PromptRoute]:
        """Called on the executor's thread."""
        routes: dict[int, PromptRoute] = {}
        began = time.perf_counter()
        versions = {id(asked.snapshot): asked.snapshot for asked in batch}
        for number, snapshot in versions.items():
            rows = [i for i, asked in enumerate(batch) if id(asked.snapshot) == number]
            for row, result in zip(rows, self._of(snapshot, [batch[i] for i in rows]), strict=True):
                routes[row] = result
        route_s = time.perf_counter() - began
        log.debug("routed %d prompts in %.4f s", len(batch), route_s)
        return [routes[row] for row in range(len(batch))]

    def _of(self, snapshot: ServedSnapshot, batch: Sequence[_Asked]) -> list[PromptRoute]:
        neurons = snapshot.neurons
        if isinstance(neurons, SigmoidNeurons):
            route = neurons.route_last(torch.cat([asked.key[0] for asked in batch]))
        else:
            assert isinstance(neurons, KeyNeurons)
            keys = span_keys(self._places, [(asked.form, asked.key) for asked in batch])
            route = neurons.route_keys(keys, len(batch))
        results = []
        columns = (route.expert_B, route.score_B, route.span_B)
        rows = zip(batch, *(column.tolist() for column in columns), strict=True)
        for asked, expert, score, span_index in rows:
            edit_id, span = None, None
            if expert >= 0:
                edit_id = snapshot.edit_ids[expert]
                texts = asked.form.texts
                span = (texts[span_index] if span_index < len(texts) else "") or None
            results.append(PromptRoute(Routed(snapshot.version, edit_id, score, span), expert))
        return results


def span_keys(places: Sequence[KeyPlace], prompts: Sequence[tuple[EncodedPrompt, Key]]) -> SpanKeys:
    """The keys of prompts as `read_span_keys` returns them."""
    parts, rows, numbers, shares, texts = [], [], [], [], []
    for row, (form, key) in enumerate(prompts):
        spans = routed_spans(form)
        if not reads_spans(tuple(places)):
            spans = spans[:1]
        count = len(spans)
        parts.append(torch.stack([rows_NF.expand(count, -1) for rows_NF in key], 1))
        length = spans[0][1] - spans[0][0]
        for number, (begin, end) in enumerate(spans):
            rows.append(row)
            numbers.append(number)
            shares.append((end - begin) / length)
            texts.append(form.texts[number] if number < len(form.texts) else "")
    return SpanKeys(
        torch.cat(parts),
        torch.tensor(rows),
        torch.tensor(numbers),
        torch.tensor(shares),
        tuple(texts),
    )
