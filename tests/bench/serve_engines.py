"""The engines side by side: the own one, vLLM with edits, plain vLLM, and its stock LoRA.

All of them are loaded in one run and take turns (a, b, c, c, b, a), each with its prefix cache
emptied before. Clients form a closed loop: each asks its next question when it has its answer.
"""

import asyncio
import contextlib
import itertools
import os
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from bench.report import emit
from bench.serve_load import MAX_TOKENS, Load
from scen.pipeline.adapters import Exporter
from scen.records import EncodedPrompt
from scen.snapshot.open import OpenStore
from scen_serve.engine.caches import HostExpertCache
from scen_serve.engine.request import (
    Choice,
    Ended,
    Piece,
    Request,
    ResponseStream,
    Routed,
    Sampling,
    ServingEngine,
    TokenLogprob,
)
from scen_serve.engine.snapshots import ServedSnapshot, SnapshotReader
from scen_serve.service import build_engine
from scen_serve.settings import EngineLimits, VllmSettings

ENGINES = ("own", "vllm", "plain", "lora")
LIMITS = EngineLimits(max_rows=64, max_waiting=4096, expert_slots=64)


@dataclass
class Reply:
    """One answer: its text and tokens' log-probabilities, seconds to the first token and the end,
    and the edit that answered."""

    choice: Choice = field(default_factory=Choice)
    tokens: int = 0
    first: float = 0.0
    seconds: float = 0.0
    edit_id: str | None = None


Question = tuple[EncodedPrompt, str | None]
"""A prompt, and the id of the edit that it is about, if any."""


class Target(Protocol):
    """An engine under load."""

    async def ask(self, question: Question) -> Reply:
        """Its answer to a question."""
        ...

    async def reset(self) -> None:
        """Empty the prefix cache."""
        ...


class EditedTarget:
    """An engine of the server, on one version."""

    def __init__(self, engine: ServingEngine, snapshot: ServedSnapshot | None) -> None:
        self.engine = engine
        self.snapshot = snapshot
        self.top_logprobs: int | None = None
        self.max_tokens = MAX_TOKENS

    async def ask(self, question: Question) -> Reply:
        """Through events, as the API does."""
        reply, began = Reply(), time.perf_counter()
        sampling = Sampling(self.max_tokens, top_logprobs=self.top_logprobs)
        request = Request(question[0], sampling, self.snapshot)
        async for _, event in ResponseStream(self.engine, [request], 600, _same).events():
            reply.choice.add(event)
            if isinstance(event, Piece | Ended) and not reply.first:
                reply.first = time.perf_counter() - began
            if isinstance(event, Ended):
                reply.tokens = event.completion_tokens
            elif isinstance(event, Routed):
                reply.edit_id = event.edit_id
        reply.seconds = time.perf_counter() - began
        return reply

    async def reset(self) -> None:
        """Empty the prefix cache."""
        if hasattr(self.engine, "prefixes"):
            self.engine.prefixes._make_room(self.engine.prefixes.max_bytes + 1)
        else:
            loop, llm = self.engine._loop, self.engine._llm  # type: ignore[attr-defined]
            done = asyncio.run_coroutine_threadsafe(llm.reset_prefix_cache(), loop)
            await asyncio.wrap_future(done)


class PlainTarget:
    """vLLM without edits; with `lora`, questions about edits go through that adapter."""

    def __init__(self, llm: Any, store: OpenStore, lora: Any = None) -> None:
        self.llm = llm
        self.top_logprobs: int | None = None
        self._stop_ids = sorted(store.base.stop_ids)
        self._tokenizer = store.base.tokenizer
        self._lora = lora

    async def ask(self, question: Question) -> Reply:
        """Token by token, as text."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        reply, began = Reply(), time.perf_counter()
        params = SamplingParams(
            temperature=0,
            max_tokens=MAX_TOKENS,
            stop_token_ids=self._stop_ids,
            logprobs=self.top_logprobs,
            output_kind=RequestOutputKind.DELTA,
        )
        prompt, lora = {"prompt_token_ids": list(question[0].ids)}, None
        if question[1] is not None:
            lora = self._lora
            reply.edit_id = None if lora is None else question[1]
        async for out in self.llm.generate(prompt, params, uuid.uuid4().hex, lora_request=lora):
            made = out.outputs[0]
            if not reply.first and (made.text or out.finished):  # as a server's first event
                reply.first = time.perf_counter() - began
            reply.choice.text += made.text
            reply.tokens += len([t for t in made.token_ids if t not in self._stop_ids])
            found = zip(made.token_ids, made.logprobs or (), strict=False)
            reply.choice.logprobs += [
                TokenLogprob(token, entry[token].logprob, ())
                for token, entry in found
                if token not in self._stop_ids
            ]
        reply.seconds = time.perf_counter() - began
        return reply

    async def reset(self) -> None:
        """Empty the prefix cache."""
        await self.llm.reset_prefix_cache()


def _same(sink: Any) -> Any:
    return sink


def vllm_settings(*, is_compiled: bool) -> VllmSettings:
    """Small caches, and no torch.compile unless asked for, which takes minutes on a CPU."""
    options = {} if torch.cuda.is_available() else {"block_size": 32}
    return VllmSettings(
        kv_cache_bytes=512 << 20, enforce_eager=not is_compiled, expert_slots=64, options=options
    )


async def start_plain(store: OpenStore, settings: VllmSettings, **more: Any) -> Any:
    """vLLM as it comes, with the arguments that the edited one gets."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    base = store.base
    args: dict[str, Any] = settings.engine_args(LIMITS) | {
        "model": str(base.folder),
        "dtype": str(base.dtype).removeprefix("torch."),
        "max_model_len": min(LIMITS.max_context, base.config.max_position_embeddings),
        "max_num_seqs": 2 * LIMITS.max_rows,
        "disable_log_stats": True,
    }
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**args | more))


class Engines:
    """The engines of a run, by name. Close it at the end."""

    def __init__(self, store: OpenStore) -> None:
        self.targets: dict[str, Any] = {}
        self.store = store
        self.host = HostExpertCache(store.storage, ("down", "up"), LIMITS.host_bytes)
        self.reader = SnapshotReader(store, self.host)
        self._closing = contextlib.ExitStack()

    async def start(self, names: Sequence[str], settings: VllmSettings, folder: Path) -> None:
        """Load them. The plain ones first, in processes without the plugin."""
        # Before the import: standard output is for JSON lines.
        os.environ |= {"VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_LOGGING_LEVEL": "WARNING"}
        from vllm.lora.request import LoRARequest

        os.environ["VLLM_PLUGINS"] = "none"
        if "plain" in names:
            llm = await start_plain(self.store, settings)
            self._closing.callback(llm.shutdown)
            self.targets["plain"] = PlainTarget(llm, self.store)
        if "lora" in names:
            exporter = Exporter(self.store.storage, self.store.ledger)
            entries = self.store.ledger.snapshot().entries
            [path] = exporter.write(entries[:1], folder / "adapters")
            more = {"enable_lora": True, "max_loras": 1, "max_lora_rank": 8}
            llm = await start_plain(self.store, settings, **more)
            self._closing.callback(llm.shutdown)
            lora = LoRARequest(path.name, 1, str(path))
            self.targets["lora"] = PlainTarget(llm, self.store, lora)
        os.environ["VLLM_PLUGINS"] = "scen"
        for name, vllm in (("vllm", settings), ("own", None)):
            if name in names:
                self._add_own(name, await asyncio.to_thread(self._build, vllm))

    def _build(self, vllm: VllmSettings | None) -> ServingEngine:
        return build_engine(self.store, self.host, LIMITS, vllm)

    def _add_own(self, name: str, engine: ServingEngine) -> None:
        import threading

        stop = threading.Event()
        engine.snapshot = self.reader.read()
        thread = threading.Thread(target=engine.run, args=(stop,), daemon=True)
        thread.start()
        self.targets[name] = EditedTarget(engine, engine.snapshot)
        self._closing.callback(thread.join, 60)
        self._closing.callback(stop.set)

    def close(self) -> None:
        """End all processes."""
        self._closing.close()
        self.host.close()


async def ask_all(
    ask: Callable[[Question], Awaitable[Reply]], questions: Sequence[Question], clients: int
) -> tuple[list[Reply], float]:
    """The replies in the order of the questions, and the seconds for all, so many at a time."""
    replies = [Reply()] * len(questions)
    left: Iterator[int] = iter(range(len(questions)))

    async def client() -> None:
        for index in left:
            replies[index] = await ask(questions[index])

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return replies, time.perf_counter() - began


def as_load(replies: Sequence[Reply], seconds: float) -> Load:
    """The figures of a turn."""
    return Load(
        seconds,
        sum(reply.tokens for reply in replies),
        [reply.seconds for reply in replies],
        [reply.first for reply in replies],
        sum(reply.edit_id is not None for reply in replies),
    )


Turns = dict[tuple[str, str], list[Load]]


async def take_turns(
    engines: Engines, loads: dict[str, Sequence[Question]], clients: int, rounds: int
) -> Turns:
    """The load of each turn, by engine and load; LoRA answers only `half`, its one edit."""
    order = [
        (name, load)
        for load in loads
        for name in engines.targets
        if name != "lora" or load == "half"
    ]
    turns: Turns = {each: [] for each in order}
    for name, load in [*order, *reversed(order)] * rounds:
        target = engines.targets[name]
        await target.reset()
        turns[name, load].append(as_load(*await ask_all(target.ask, loads[load], clients)))
    return turns


def ratio(turns: Turns, over: tuple[str, str], under: tuple[str, str], what: str) -> float | None:
    """The median over turns of one figure of `over` by that of `under`; None without either."""
    if not (turns.get(over) and turns.get(under)):
        return None

    def figure(load: Load) -> float:
        rate = load.tokens / load.seconds
        return rate if what == "tokens" else statistics.median(load.first)

    pairs = zip(turns[over], turns[under], strict=True)
    return round(statistics.median(figure(a) / figure(b) for a, b in pairs), 4)


def show(turns: Turns, clients: int) -> None:
    """Print the rows of one number of clients and their ratios."""
    for (name, load), parts in turns.items():
        whole = sum(parts, Load())
        emit(bench="serve_engines", engine=name, load=load, clients=clients, **whole.figures())
    plain, edited, lora = ("plain", "unedited"), ("vllm", "half"), ("lora", "half")
    pairs = {
        "vllm_vs_plain_unedited": (("vllm", "unedited"), plain),
        "vllm_vs_own_unedited": (("vllm", "unedited"), ("own", "unedited")),
        "vllm_vs_own_half": (edited, ("own", "half")),
        "vllm_vs_plain_half": (edited, ("plain", "half")),
        "lora_vs_plain_half": (lora, ("plain", "half")),
        "vllm_vs_lora_half": (edited, lora),
    }
    found = {
        f"{what}_{name}": ratio(turns, over, under, what)
        for name, (over, under) in pairs.items()
        for what in ("tokens", "first")
    }
    known = {name: value for name, value in found.items() if value is not None}
    emit(bench="serve_engines_ratio", clients=clients, **known)


async def compare(
    engines: Engines, questions: Callable[[int], dict[str, Sequence[Question]]], args: Any
) -> None:
    """Print how the engines do at each number of clients."""
    for clients in args.clients:
        count = max(clients, args.requests if clients > 1 else args.requests // 4)
        loads = questions(count)
        for name, target in engines.targets.items():  # warm up
            await ask_all(target.ask, loads["half" if name == "lora" else "unedited"], clients)
        show(await take_turns(engines, loads, clients, args.rounds), clients)


async def check(
    engines: Engines,
    questions: Sequence[Question],
    targets: dict[str, str],
    swap: Callable[[], Any],
) -> bool:
    """Ask all questions at 32 clients while another version is swapped in, and print what is right;
    False if a request failed or an edit did not answer as it should."""
    edited, plain = engines.targets["vllm"], engines.targets["plain"]
    edited.snapshot, edited.top_logprobs, plain.top_logprobs = None, 0, 0
    failures: list[str] = []

    async def ask(question: Question) -> Reply:
        try:
            reply: Reply = await edited.ask(question)
        except Exception as error:
            failures.append(str(error))
            return Reply()
        return reply

    swapping = asyncio.create_task(asyncio.to_thread(swap))
    replies, _ = await ask_all(ask, questions, 32)
    version = await swapping
    await plain.reset()
    others = [(q, reply) for q, reply in zip(questions, replies, strict=True) if q[1] is None]
    expected, _ = await ask_all(plain.ask, [q for q, _ in others], 32)
    edits = [(q[1], reply) for q, reply in zip(questions, replies, strict=True) if q[1]]
    exact = sum(reply.choice.text.strip() == targets[name] for name, reply in edits if name)
    unrouted = [(r, e) for (_, r), e in zip(others, expected, strict=True) if r.edit_id is None]
    same = sum(_logprobs(reply) == _logprobs(other) for reply, other in unrouted)
    versions = {reply.choice.routed.version for reply in replies if reply.choice.routed}
    emit(
        bench="serve_check",
        edits=len(edits),
        routed_right=sum(reply.edit_id == name for name, reply in edits),
        exact=exact,
        questions=len(others),
        unrouted=len(unrouted),
        same_tokens=sum(_tokens(reply) == _tokens(other) for reply, other in unrouted),
        same_logprobs=same,
        failed=len(failures),
        versions=sorted(versions),
        swapped_to=version,
    )
    return not failures and exact == len(edits)


def _tokens(reply: Reply) -> list[int]:
    return [token.token_id for token in reply.choice.logprobs]


def _logprobs(reply: Reply) -> list[tuple[int, float]]:
    return [(token.token_id, token.logprob) for token in reply.choice.logprobs]


def numbered(prompts: Sequence[EncodedPrompt], ids: Sequence[str | None]) -> list[Question]:
    """Questions, each with its edit."""
    return list(zip(prompts, itertools.cycle(ids), strict=False))
