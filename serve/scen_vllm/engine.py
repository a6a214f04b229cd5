"""The engine on vLLM: the same requests and events as the own engine, with vLLM's AsyncLLM inside.

An event loop in a thread of its own runs AsyncLLM and one task per answer. Routing runs in a second
thread, which alone runs the base in this process, if anything does.
"""

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from scen.model.base import Base
from scen.model.keys import KeyPlace, reads_spans
from scen.model.route import SigmoidNeurons
from scen.records import EncodedPrompt
from scen.snapshot.ask import LikelyEdit, likely_by_keys
from scen.snapshot.open import OpenStore
from scen_serve.engine.caches import HostExpertCache, empty_bank
from scen_serve.engine.decoding import Answer, Constraints, IncrementalDetokenizer, Matcher
from scen_serve.engine.engine import RequestQueue, check_request
from scen_serve.engine.request import BusyError, EngineCounts, Request, Sink, Ticket
from scen_serve.engine.snapshots import ServedSnapshot
from scen_serve.settings import EngineLimits
from scen_vllm.answer import Parts, VllmAnswer, read_key
from scen_vllm.link import WorkersLink
from scen_vllm.plugin import register, require_version
from scen_vllm.routing import BatchRouter, routed_form, span_keys
from scen_vllm.slots import ExpertSlots
from scen_vllm.wish import Settings

log = logging.getLogger(__name__)
_MAX_EXPLAINED = 16
_BEAT_S = 0.2


class _TaskTicket(Ticket):
    """A ticket whose task is cancelled with it."""

    def __init__(
        self,
        request: Request,
        sink: Sink,
        on_cancel: Callable[["_TaskTicket"], None],
        matcher: Matcher | None,
    ) -> None:
        super().__init__(request, sink, matcher)
        self.task: asyncio.Task[None] | None = None
        self._on_cancel = on_cancel

    def cancel(self) -> None:
        """Abort the answer, or drop it from the queue."""
        super().cancel()
        self._on_cancel(self)


class VllmEngine:
    """Answers requests with vLLM and the experts of many versions of one store.

    `submit` may be called from any thread. `snapshot` serves requests that name no version:
    assigning another one swaps it. At most `limits.max_rows` answers run at a time.
    """

    def __init__(
        self,
        store: OpenStore,
        host: HostExpertCache,
        limits: EngineLimits,
        options: Mapping[str, Any] | None = None,
        address: str | None = None,
    ) -> None:
        """Load vLLM, which takes seconds to minutes. `options` are further arguments of vLLM's
        AsyncEngineArgs, `address` is that of `WorkersLink`. Raises ConfigError with another version
        of vLLM than the plugin is made for, and what vLLM raises."""
        require_version()
        self.base, self.limits = store.base, limits
        self.constraints = Constraints(store.base)
        self._prefixes = (0, 0, 0)  # hits, tokens, bytes
        self.beat = time.monotonic()
        self.snapshot: ServedSnapshot | None = None
        self._store = store
        self._waiting = RequestQueue(limits.max_waiting)
        self._running: dict[VllmAnswer, _TaskTicket] = {}
        self._num_explained = 0
        self._is_closing = False
        self._executor = ThreadPoolExecutor(1, "scen-router")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="scen-vllm", daemon=True
        )
        self._thread.start()
        opening = self._open(host, dict(options or {}), address)
        try:
            asyncio.run_coroutine_threadsafe(opening, self._loop).result()
        except BaseException:
            self._stop_loop()
            raise

    @property
    def experts(self) -> ExpertSlots:
        """The experts on the devices."""
        return self._parts.slots

    @property
    def counts(self) -> EngineCounts:
        """Uses of the caches since the start; vLLM has prefixes and answers in the same blocks."""
        experts = self.experts.counts
        return EngineCounts(experts.hits, experts.misses, experts.evictions, *self._prefixes)

    @property
    def max_context(self) -> int:
        """Maximum number of tokens of a prompt and its answer together."""
        return max_context(self.base, self.limits)

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Answers that have left the queue."""
        return len(self._running)

    @property
    def cache_bytes(self) -> int:
        """Size of the keys and values of running answers."""
        return self._token_bytes * sum(answer.num_tokens for answer in list(self._running))

    def submit(self, request: Request, sink: Sink) -> Ticket:
        """Queue a request; `sink` receives its events. Raises as `Engine.submit` does."""
        check_request(request, self.base.config.vocab_size, self.max_context)
        if request.snapshot is None and self.snapshot is None:
            raise BusyError("no snapshot of the store is loaded yet; try again in a moment")
        constraint = request.sampling.constraint
        matcher = None if constraint is None else self.constraints.matcher(constraint)
        ticket = _TaskTicket(request, sink, self._cancel, matcher)
        self._waiting.push(ticket)
        self._loop.call_soon_threadsafe(self._admit)
        return ticket

    def explain(
        self, snapshot: ServedSnapshot, prompt: EncodedPrompt, count: int
    ) -> "Future[tuple[LikelyEdit, ...]]":
        """As `ServingEngine.explain`."""
        if self._num_explained >= _MAX_EXPLAINED:
            raise BusyError(f"{_MAX_EXPLAINED} such requests wait already; try again")
        self._num_explained += 1
        work = self._explain(snapshot, prompt, count)
        done = asyncio.run_coroutine_threadsafe(work, self._loop)
        done.add_done_callback(self._count_explained)
        return done

    def run(self, stop: threading.Event) -> None:
        """Return when `stop` is set, or vLLM has died; then close."""
        while not stop.wait(_BEAT_S):
            if self._llm.errored:
                log.error("vLLM has died: %s", self._llm.dead_error)
                break
        self.close()

    def close(self) -> None:
        """Abort all answers and stop vLLM."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(60)
            self._stop_loop()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _open(
        self, host: HostExpertCache, options: dict[str, Any], address: str | None
    ) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        register()  # also where the distribution's entry point is not installed
        store, limits, method = self._store, self.limits, self._store.method
        places = key_places(store)
        settings = Settings.of(method.layer, places, method.rank, limits.expert_slots)
        link = WorkersLink(places, address)
        self._link = link
        self._llm = AsyncLLM.from_engine_args(engine_args(self.base, limits, settings, options))
        await link.connect(self._llm)
        device = torch.device("cpu")
        shape = empty_bank(self.base.config, method.rank, 1, device)
        slots = ExpertSlots(host, shape, link.put, self._fence)
        slots.open(limits.expert_slots)
        self._parts = Parts(
            self._llm,
            link,
            BatchRouter(places, self._executor),
            slots,
            places,
            None if reads_spans(places) else 1,
            shape.span == "all",
            self.base.stop_ids,
        )
        self._token_bytes, num_bytes = cache_sizes(self._llm.vllm_config)
        self._prefixes = (0, 0, num_bytes)
        self._tasks = [asyncio.ensure_future(task) for task in (link.receive(), self._keep_beat())]

    async def _explain(
        self, snapshot: ServedSnapshot, prompt: EncodedPrompt, count: int
    ) -> tuple[LikelyEdit, ...]:
        if not snapshot.places or count == 0:
            return ()
        form = routed_form(Request(prompt), self._parts.places)
        key = await read_key(self._parts, form)

        def likely() -> tuple[LikelyEdit, ...]:
            neurons, ids = snapshot.neurons, snapshot.edit_ids
            if isinstance(neurons, SigmoidNeurons):
                return likely_by_keys(neurons, key[0], ids, count)
            keys = span_keys(self._parts.places, [(form, key)])
            return likely_by_keys(neurons, keys, ids, count)

        return await self._loop.run_in_executor(self._executor, likely)

    def _count_explained(self, _done: "Future[tuple[LikelyEdit, ...]]") -> None:
        self._num_explained -= 1

    async def _close(self) -> None:
        self._is_closing = True
        answers = [ticket.task for ticket in self._running.values() if ticket.task]
        for task in (*answers, *self._tasks):
            task.cancel()
        await asyncio.gather(*answers, *self._tasks, return_exceptions=True)
        self._llm.shutdown()
        self._link.close()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _fence(self) -> None:
        await self._llm.collective_rpc("scen_fence")

    async def _keep_beat(self) -> None:
        """The engine makes progress as long as vLLM returns tokens, or has none to return."""
        before = -1
        while not self._llm.errored:
            tokens = sum(answer.num_tokens for answer in self._running)
            if tokens != before or not self._running:
                self.beat = time.monotonic()
            before = tokens
            self._drop_waiting()
            await asyncio.sleep(_BEAT_S)

    def _admit(self) -> None:
        """Start the next answers. On the loop."""
        newest = self.snapshot
        while self.num_running < self.limits.max_rows and not self._is_closing:
            tickets = self._waiting.take(1, 1)
            if not tickets:
                return
            ticket = tickets[0]
            assert isinstance(ticket, _TaskTicket)
            snapshot = ticket.request.snapshot or newest
            assert snapshot is not None  # checked by `submit`, and never unset
            text = IncrementalDetokenizer(self.base.tokenizer, ticket.request.sampling.stop)
            answer = VllmAnswer(self._parts, Answer(ticket, text), snapshot)
            self._running[answer] = ticket
            ticket.task = asyncio.ensure_future(answer.run())
            ticket.task.add_done_callback(functools.partial(self._end, answer))

    def _end(self, answer: VllmAnswer, task: "asyncio.Task[None]") -> None:
        """Emit the end of an answer that was cancelled or failed, and start the next."""
        del self._running[answer]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("an answer failed", exc_info=error)
        if not answer.writer.is_ended:
            if isinstance(error, Exception):
                answer.writer.fail(error)
            else:
                answer.writer.cancel()
        hits, tokens, num_bytes = self._prefixes
        cached = answer.cached_tokens
        self._prefixes = (hits + (cached > 0), tokens + cached, num_bytes)
        self._admit()

    def _cancel(self, ticket: _TaskTicket) -> None:
        """Called from any thread."""
        self._loop.call_soon_threadsafe(self._cancel_task, ticket)

    def _cancel_task(self, ticket: _TaskTicket) -> None:
        if ticket.task is not None:
            ticket.task.cancel()
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        self._waiting.drop_cancelled()


def key_places(store: OpenStore) -> tuple[KeyPlace, ...]:
    """The places of a store's keys; with method `scen` the last prompt token, at its layer."""
    router = store.loader.router
    if router is None:
        return (KeyPlace(store.method.layer, "last"),)
    return router.encoder.places


def max_context(base: Base, limits: EngineLimits) -> int:
    """Maximum number of tokens of a prompt and its answer together."""
    return min(limits.max_context, int(base.config.max_position_embeddings))


def engine_args(
    base: Base, limits: EngineLimits, settings: Settings, options: Mapping[str, Any]
) -> Any:
    """vLLM's arguments for a base; `options` take precedence.

    vLLM may run twice as many requests as there are answers: questions that are routed in a form of
    their own, and aborted passes until their end.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs

    chosen: dict[str, Any] = {
        "model": str(base.folder),
        # The library that the own engine uses, so that both accept the same constraints.
        "structured_outputs_config": {"backend": "guidance"},
        "dtype": str(base.load_dtype).removeprefix("torch."),
        # Room for the one token that vLLM generates at least, and for a template around raw text.
        "max_model_len": min(
            max_context(base, limits) + 64, int(base.config.max_position_embeddings)
        ),
        "max_num_seqs": 2 * limits.max_rows,
        "max_logprobs": 20,
        "worker_extension_cls": "scen_vllm.worker.WorkerExtension",
        "disable_log_stats": True,
    }
    chosen |= options
    if settings.rank == 0:  # whole matrices cannot be applied within a CUDA graph
        chosen["enforce_eager"] = True
    more = dict(chosen.pop("additional_config", None) or {})
    return AsyncEngineArgs(**chosen, additional_config=more | {"scen": settings.config()})


def cache_sizes(config: Any) -> tuple[int, int]:
    """Bytes of the keys and values of one token, and of all blocks; of all ranks together."""
    model, cache = config.model_config, config.cache_config
    heads = model.get_total_num_kv_heads() * model.get_head_size()
    layers = model.get_total_num_hidden_layers()
    width = torch.empty(0, dtype=model.dtype).element_size()
    token_bytes = 2 * layers * heads * width
    return token_bytes, token_bytes * cache.block_size * (cache.num_gpu_blocks or 0)
