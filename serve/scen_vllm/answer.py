"""One request on vLLM: it begins as the base's, and is asked again with an expert if it is routed.

The first pass reads the keys of the prompt. Without an edit it simply continues. With an edit it is
aborted and asked again, with the expert acting from the last prompt token on; the prefix cache then
leaves at most one block of the prompt to be computed.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from scen.records import EncodedPrompt
from scen_serve.engine.decoding import Answer
from scen_serve.engine.request import Piece, Routed
from scen_serve.engine.running_batch import question_end
from scen_serve.engine.snapshots import ServedSnapshot
from scen_vllm.link import Key, WorkersLink
from scen_vllm.params import probe_params, prompt_logprobs, sampling_params, token_logprob
from scen_vllm.routing import BatchRouter, PromptRoute, routed_form
from scen_vllm.slots import ExpertSlots, expert_name
from scen_vllm.wish import Wish, key_wish

_KEY_S = 600.0  # keys come with the first token; a longer wait means that a worker hangs


@dataclass(frozen=True)
class Parts:
    """What answers need of their engine."""

    llm: Any  # vLLM's AsyncLLM
    link: WorkersLink
    router: BatchRouter
    slots: ExpertSlots
    places: tuple[Any, ...]
    num_spans: int | None
    acts_on_prompt: bool  # method scen
    stop_ids: frozenset[int]


class VllmAnswer:
    """One answer. `cached_tokens` of its prompt were taken from the prefix cache."""

    def __init__(self, parts: Parts, writer: Answer, snapshot: ServedSnapshot) -> None:
        self.cached_tokens = 0
        self._parts = parts
        self.writer = writer
        self._request = writer.request
        self._snapshot = snapshot
        self._prompt_scored = False

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return len(self._request.prompt.ids) + len(self.writer.output_ids)

    async def run(self) -> None:
        """Emit all events of the answer but a failure, which is raised."""
        if not self._request.is_edited or not self._snapshot.places:
            outputs = self._generate(None)
            self.writer.ticket.emit(Routed(self._snapshot.version, None, None))
            await self._emit(outputs)
            return
        form = routed_form(self._request, self._parts.places)
        async with contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(_Started.of(self, form))
            route = await first.route
            self.writer.ticket.emit(route.routed)
            if route.expert < 0:
                await self._emit(first.outputs())
                return
        await self._apply_expert(route)

    async def _apply_expert(self, route: PromptRoute) -> None:
        """The answer with an expert."""
        place = self._snapshot.places[route.expert]
        slot = await self._parts.slots.acquire(place)
        try:
            start = self._start(route)
            wish: Wish = {"expert": expert_name(place), "slot": slot.number, "start": start}
            await self._emit(self._generate(wish))
        finally:
            self._parts.slots.release(slot)

    def _start(self, route: PromptRoute) -> int:
        if self._parts.acts_on_prompt:
            return 0
        if self._request.scored is None:
            return len(self._request.prompt.ids) - 1
        edit_id = route.routed.edit_id
        assert edit_id is not None
        return question_end(self._request.scored, (self._snapshot.span(edit_id), route.routed.span))

    def _generate(self, wish: Wish | None) -> AsyncIterator[Any]:
        params = sampling_params(self._request, self._parts.stop_ids, wish)
        return generate(self._parts.llm, self._request.prompt, params)

    async def _emit(self, outputs: AsyncIterator[Any]) -> None:
        """Emit the outputs of a pass, and abort it if the answer ends before it."""
        async with contextlib.aclosing(outputs):  # type: ignore[type-var]
            async for output in outputs:
                if not self._take(output):
                    return
                if output.finished:
                    break
        self.writer.end("length")

    def _take(self, output: Any) -> bool:
        """Emit one output of vLLM; False if the answer ends with it."""
        request, writer = self._request, self.writer
        top = request.sampling.top_logprobs or 0
        self.cached_tokens = max(self.cached_tokens, output.num_cached_tokens or 0)
        if request.scored and output.prompt_logprobs and not self._prompt_scored:
            self._prompt_scored = True
            ids, offsets = request.prompt.ids, request.scored.offsets
            scores = prompt_logprobs(ids, output.prompt_logprobs, top, offsets)
            writer.ticket.emit(Piece("", prompt=scores))
        if request.sampling.max_tokens == 0:
            return writer.end("length")
        made = output.outputs[0]
        logprobs = made.logprobs or [{}] * len(made.token_ids)
        for token, entry in zip(made.token_ids, logprobs, strict=True):

            def logprob(before: int, token: int = token, entry: Any = entry) -> Any:
                return token_logprob(token, entry, top, before)

            if not writer.add(token, logprob, self._parts.stop_ids):
                return False
        if made.finish_reason == "stop":  # at a token that is not returned
            return writer.end("stop")
        if made.finish_reason not in (None, "length"):
            raise RuntimeError(f"vLLM ended an answer: {made.finish_reason}")
        return True


class _Started:
    """A first pass whose output is held until its prompt is routed."""

    def __init__(self, answer: VllmAnswer, form: EncodedPrompt) -> None:
        self._parts, self._snapshot = answer._parts, answer._snapshot
        self._form = form
        self._name = uuid.uuid4().hex
        wish = key_wish(self._name, form, self._parts.num_spans)
        is_own = form is answer._request.prompt
        self._outputs = answer._generate(wish if is_own else None)
        self._probe = None
        if not is_own:
            self._probe = generate(self._parts.llm, form, probe_params(wish))
        self._tasks: list[asyncio.Task[Any]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, answer: VllmAnswer, form: EncodedPrompt) -> AsyncIterator["_Started"]:
        """Start a pass; it is aborted at the end unless it is complete."""
        started = cls(answer, form)
        key = started._parts.link.expect(started._name)
        began = time.perf_counter()
        first = asyncio.ensure_future(anext(started._outputs))
        started._tasks = [first]
        if started._probe is not None:
            started._tasks.append(asyncio.ensure_future(_exhaust(started._probe)))
        started.route = asyncio.ensure_future(started._find(key, began))
        try:
            yield started
        finally:
            started._parts.link.forget(started._name)
            for task in (started.route, *started._tasks):
                task.cancel()
            await asyncio.gather(started.route, *started._tasks, return_exceptions=True)
            for outputs in (started._outputs, started._probe):
                if outputs is not None:
                    await outputs.aclose()  # type: ignore[attr-defined]

    route: "asyncio.Task[PromptRoute]"

    async def outputs(self) -> AsyncIterator[Any]:
        """All outputs of the pass."""
        yield await self._tasks[0]
        async for output in self._outputs:
            yield output

    async def _find(self, key: "asyncio.Future[Any]", began: float) -> PromptRoute:
        """The route, once the key has come. Raises what the passes raise."""
        waiting = {key, *self._tasks}
        while not key.done():
            done, waiting = await asyncio.wait(
                waiting, timeout=_KEY_S, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {key}:
                task.result()
            if not done:
                raise RuntimeError(f"a worker sent no keys within {_KEY_S:g} s")
        came = time.perf_counter()
        route = await self._parts.router.route(self._snapshot, self._form, key.result())
        routed = replace(route.routed, prefill_s=came - began, route_s=time.perf_counter() - came)
        return replace(route, routed=routed)


def generate(llm: Any, prompt: EncodedPrompt, params: Any) -> AsyncIterator[Any]:
    """The outputs of vLLM for a prompt, which are aborted if they are closed early."""
    outputs: AsyncIterator[Any] = llm.generate(
        {"prompt_token_ids": list(prompt.ids)}, params, uuid.uuid4().hex
    )
    return outputs


async def read_key(parts: Parts, form: EncodedPrompt) -> Key:
    """The key of a prompt, without an answer. Raises what vLLM raises."""
    name = uuid.uuid4().hex
    key = parts.link.expect(name)
    try:
        await _exhaust(
            generate(parts.llm, form, probe_params(key_wish(name, form, parts.num_spans)))
        )
        return await asyncio.wait_for(key, _KEY_S)
    finally:
        parts.link.forget(name)


async def _exhaust(outputs: AsyncIterator[Any]) -> None:
    async for _ in outputs:
        pass
