"""Serving under load: what editing costs, and what batching gains over the published procedure.

    PYTHONPATH=tests python tests/bench/bench_serve.py
    PYTHONPATH=tests python tests/bench/bench_serve.py --requests 16 --clients 1,4    # a quick look

Loads, at each number of clients: `base` a store without edits in the same engine, `unedited` the
edited store with questions about nothing that was edited, `half` with every other question about an
edit. `base` and `unedited` take turns (a, b, b, a), several times; where one client asks, with each
question. `median_vs_base` is the median over these fours of what `unedited` took over what `base`
took, which a neighbour's noise hardly moves. Then `published` answers the questions of `half` one
by one: route, read the expert (a whole linear layer) from disk, put it into the layer, decode;
`cached` is the same with a KV cache, which the published code lacks. Experts are trained for a few
steps only: what they say does not matter here. Ratios come last.

In the environment of `make test-vllm`, the own engine is compared with vLLM, with edits, plain and
with its stock LoRA; or vLLM is checked: whether N edits answer exactly among N other questions,
which then are plain vLLM's, while another version is swapped in; or whether it routes as the own
engine does, on N edits' prompts, N rephrases and N / 2 other questions.

    export PYTHONPATH=tests OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind
    .venv-vllm/bin/python tests/bench/bench_serve.py --engines own,vllm,plain,lora \
        --clients 1,8,32,64
    .venv-vllm/bin/python tests/bench/bench_serve.py --check 200
    .venv-vllm/bin/python tests/bench/bench_serve.py --routes 200
"""

import argparse
import asyncio
import contextlib
import copy
import functools
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench import serve_engines
from bench.report import base_option, emit, new_parser, numbers
from bench.serve_load import MAX_TOKENS, Load, run_load
from scen.config import load_config
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.fs import Storage
from scen.model import reference
from scen.model.base import Base, load_base
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.stream import settings
from scen.records import Edit, EncodedPrompt
from scen.samples import sample_path
from scen.snapshot.open import OpenStore, create_store
from scen.tracking.client import NullTracker
from scen_serve.engine.caches import ExpertCache, HostExpertCache, empty_bank
from scen_serve.engine.engine import Engine
from scen_serve.engine.snapshots import ServedSnapshot, SnapshotReader
from scen_serve.settings import EngineLimits

EDITS = 64
ROUNDS = 3  # of turns
TURNS = ("base", "unedited", "unedited", "base")


def make_store(folder: Path, base: str) -> tuple[OpenStore, list[str]]:
    """A store of real edits at version 1, and their prompts."""
    store, [commit], edits = prepare_store(folder, base, [EDITS], {"steps": 3})
    commit()
    return store, [edit.prompt for edit in edits]


def prepare_store(
    folder: Path, base: str, sizes: Sequence[int], expert: dict[str, int]
) -> tuple[OpenStore, list[Callable[[], object]], list[Edit]]:
    """An empty store, a function for each wave that commits it, trained already, and the edits."""
    config = load_config(fixed={"expert": expert, "base": {"name": base}})
    neutral = read_prompts(sample_path("nq_neutral.jsonl"))
    store = create_store(Storage(str(folder / "store")), config, neutral)
    batches = ingest(sample_path("zsre_edits.jsonl"), Validator(), limit=sum(sizes))
    edits = list(itertools.chain.from_iterable(batch.edits for batch in batches))
    parts = LocalParts(store, config, [], NullTracker())
    commits, left = list[Callable[[], object]](), iter(edits)
    for number, size in enumerate(sizes):
        part = tuple(itertools.islice(left, size))
        wave = Wave("bench", number, part, settings(config, store))
        report = {"report": {"reliability": None}}
        commits.append(functools.partial(parts.commit, wave, parts.train(wave), report))
    return store, commits, edits


def make_engine(store: OpenStore) -> tuple[Engine, SnapshotReader]:
    """As `scen serve` makes it, with room for 32 rows."""
    limits, base = EngineLimits(), store.base
    host = HostExpertCache(store.storage, ("down", "up"), limits.host_bytes)
    bank = empty_bank(base.model.config, store.method.rank, limits.expert_slots, base.device)
    engine = Engine(base, store.method.layer, ExpertCache(bank, host), limits)
    return engine, SnapshotReader(store, host)


def published(
    base: Base, layer: int, prompts: Sequence[EncodedPrompt], folder: Path, *, is_cached: bool
) -> Load:
    """One request after the other. Every other one is routed to an edit, whose expert is on disk;
    so which neuron is nearest does not matter, but it is computed."""
    load = Load()
    linear = base.model.model.layers[layer].mlp.down_proj.weight
    neuron_EF = torch.randn(EDITS, linear.shape[1]).to(linear)
    save_file({"weight": linear.clone()}, folder / "expert.safetensors")
    began = time.perf_counter()
    for number, prompt in enumerate(prompts):
        asked = time.perf_counter()
        reference.choose_expert(base.model, layer, prompt, neuron_EF, 0.65)
        expert = load_file(folder / "expert.safetensors")["weight"] if number % 2 else None
        if is_cached:
            tokens = _generate(base, layer, prompt, expert)
        else:
            limits = (MAX_TOKENS, min(base.stop_ids))
            tokens = reference.answer(base.model, layer, prompt, expert, limits)
        load.tokens += len(tokens)
        load.edited += expert is not None
        load.latency.append(time.perf_counter() - asked)
        load.first.append(load.latency[-1])  # nothing is streamed
    load.seconds = time.perf_counter() - began
    return load


@torch.no_grad()
def _generate(
    base: Base, layer: int, prompt: EncodedPrompt, expert_DF: torch.Tensor | None
) -> list[int]:
    """The procedure's answer, with the cache of keys and values that transformers keeps."""
    mlp = base.model.model.layers[layer].mlp
    linear = mlp.down_proj
    if expert_DF is not None:
        mlp.down_proj = copy.deepcopy(linear)
        mlp.down_proj.weight.data = expert_DF
    try:
        ids = torch.tensor([list(prompt.ids)])
        found = base.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            pad_token_id=base.pad_id,
        )
    finally:
        mlp.down_proj = linear
    answer: list[int] = found[0, len(prompt.ids) :].tolist()
    return answer


def mixed(store: OpenStore, edited: Sequence[str], count: int) -> tuple[list[EncodedPrompt], ...]:
    """Questions about nothing that was edited, and the same with every other one about an edit."""
    strange = itertools.cycle(read_prompts(sample_path("nq_locality.jsonl"), 100))
    known = itertools.cycle(edited)
    encode = store.base.template.encode_prompt
    unedited = [encode(next(strange)) for _ in range(count)]
    half = [encode(next(known)) if i % 2 else prompt for i, prompt in enumerate(unedited)]
    return unedited, half


def take_turns(
    engine: Engine,
    snapshots: dict[str, ServedSnapshot],
    turns: Sequence[list[EncodedPrompt]],
    clients: int,
) -> tuple[dict[str, Load], list[float]]:
    """`base` and `unedited` of the whole, and the ratio of their times of each turn."""
    loads, ratios = {name: Load() for name in TURNS}, []
    for asked in turns:
        of_turn = {name: Load() for name in TURNS}
        for name in TURNS:
            of_turn[name] += run_load(engine, snapshots[name], asked, clients)
        ratios.append(of_turn["unedited"].seconds / of_turn["base"].seconds)
        for name, load in of_turn.items():
            loads[name] += load
    return loads, ratios


@contextlib.asynccontextmanager
async def started(
    store: OpenStore, names: Sequence[str], args: argparse.Namespace, folder: Path
) -> AsyncIterator[serve_engines.Engines]:
    """These engines of the store, closed at the end."""
    engines = serve_engines.Engines(store)
    try:
        vllm = serve_engines.vllm_settings(is_compiled=args.compile)
        await engines.start(names, vllm, folder)
        yield engines
    finally:
        engines.close()


async def compare_engines(args: argparse.Namespace, folder: Path) -> None:
    """Print the rows of the engines, in turns."""
    store, [commit], edits = prepare_store(folder, args.base, [EDITS], {"steps": 3})
    commit()

    def questions(count: int) -> dict[str, Sequence[serve_engines.Question]]:
        unedited, half = mixed(store, [edit.prompt for edit in edits], count)
        ids = itertools.cycle(edit.id for edit in edits)
        names = [next(ids) if i % 2 else None for i in range(count)]
        return {
            "unedited": serve_engines.numbered(unedited, [None]),
            "half": serve_engines.numbered(half, names),
        }

    async with started(store, args.engines, args, folder) as engines:
        await serve_engines.compare(engines, questions, args)


async def check_vllm(args: argparse.Namespace, folder: Path) -> bool:
    """Check N edits among N questions; True if all is right."""
    store, [commit, commit_more], edits = prepare_store(folder, args.base, [args.check, 8], {})
    commit()
    edits = edits[: args.check]
    unedited, _ = mixed(store, [edit.prompt for edit in edits], args.check)
    encode = store.base.template.encode_prompt
    known: list[serve_engines.Question] = [(encode(edit.prompt), edit.id) for edit in edits]
    others = serve_engines.numbered(unedited, [None])
    questions = [each for pair in zip(known, others, strict=True) for each in pair]
    async with started(store, ["vllm", "plain"], args, folder) as engines:

        def swap() -> int:
            time.sleep(2)  # when many answers run
            commit_more()
            snapshot = engines.reader.read()
            engines.targets["vllm"].engine.snapshot = snapshot
            return snapshot.version

        targets = {edit.id: edit.target for edit in edits}
        return await serve_engines.check(engines, questions, targets, swap)


async def compare_routes(
    engines: serve_engines.Engines, questions: Sequence[serve_engines.Question]
) -> bool:
    """Print how many questions both engines route alike, and how far their scores differ; True if
    at least 99.5 % are."""
    routes: dict[str, list[tuple[str | None, float]]] = {}
    for name in ("own", "vllm"):
        target = engines.targets[name]
        target.max_tokens = 1
        replies, _ = await serve_engines.ask_all(target.ask, questions, 32)
        found = (reply.choice.routed for reply in replies)
        routes[name] = [(each.edit_id, each.score or 0.0) for each in found if each is not None]
    pairs = list(zip(routes["own"], routes["vllm"], strict=True))
    alike = sum(own == other for (own, _), (other, _) in pairs)
    right = sum(own == q[1] for (own, _), q in zip(routes["own"], questions, strict=True))
    apart = [abs(own - other) for (_, own), (_, other) in pairs]
    emit(bench="serve_routes", questions=len(pairs), alike=alike, own_right=right,
         score_apart_median=statistics.median(apart), score_apart_max=max(apart))  # fmt: skip
    return alike >= 0.995 * len(pairs)


async def check_routes(args: argparse.Namespace, folder: Path) -> bool:
    """Compare the routes of both engines in a store of N edits; True if they agree."""
    store, [commit], edits = prepare_store(folder, args.base, [args.routes], {"steps": 3})
    commit()
    encode = store.base.template.encode_prompt
    texts = [(edit.prompt, edit.id) for edit in edits]
    texts += [(edit.rephrases[0].text, edit.id) for edit in edits if edit.rephrases]
    unrelated = read_prompts(sample_path("nq_locality.jsonl"), args.routes // 2)
    questions: list[serve_engines.Question] = [(encode(text), name) for text, name in texts]
    questions += [(encode(text), None) for text in unrelated]
    async with started(store, ["vllm", "own"], args, folder) as engines:
        return await compare_routes(engines, questions)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    add = parser.add_argument
    add("--requests", type=int, default=96, help="per load (%(default)s)")
    add("--published", type=int, default=24, help="requests, of the slow baseline (%(default)s)")
    add("--clients", type=numbers, default="1,8,32", help="at a time (%(default)s)")
    engines = ", ".join(serve_engines.ENGINES)
    add("--engines", type=lambda text: text.split(","), metavar="NAMES",
        help=f"compare these engines instead: {engines}")  # fmt: skip
    add("--rounds", type=int, default=ROUNDS, help="of turns of the engines (%(default)s)")
    add("--check", type=int, metavar="N", help="check vLLM with N edits and N questions instead")
    add("--routes", type=int, metavar="N", help="compare the routes with N edits instead")
    add("--compile", action="store_true", help="torch.compile in vLLM, and CUDA graphs on a GPU")
    return parser.parse_args()


def main() -> None:
    """Print a line per load and number of clients, then the ratios."""
    args = parse()
    if args.engines or args.check or args.routes:
        with tempfile.TemporaryDirectory() as folder:
            if args.check:
                sys.exit(not asyncio.run(check_vllm(args, Path(folder))))
            if args.routes:
                sys.exit(not asyncio.run(check_routes(args, Path(folder))))
            asyncio.run(compare_engines(args, Path(folder)))
        return
    rate: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        store, edited = make_store(Path(folder), args.base)
        engine, reader = make_engine(store)
        snapshots = {"base": reader.read(0), "unedited": reader.read(1), "half": reader.read(1)}
        engine.snapshot = snapshots["half"]
        for clients in args.clients:
            count = max(clients, args.requests if clients > 1 else args.requests // 4)
            unedited, half = mixed(store, edited, count)
            run_load(engine, snapshots["half"], half, clients)  # warm up
            turns = [[prompt] for prompt in unedited] if clients == 1 else [unedited]
            loads, ratios = take_turns(engine, snapshots, turns * ROUNDS, clients)
            loads["half"] = run_load(engine, snapshots["half"], half, clients)
            for name, load in loads.items():
                emit(bench="serve", load=name, clients=clients, **load.figures())
                rate[name, clients] = len(load.latency) / load.seconds
            ratio = loads["unedited"].seconds / loads["base"].seconds
            emit(bench="serve_overhead", clients=clients, unedited_vs_base=round(ratio, 4),
                 median_vs_base=round(statistics.median(ratios), 4))  # fmt: skip
        base = load_base(args.base)  # as it was before an engine had it
        _, asked = mixed(store, edited, args.published)
        for name, is_cached in (("published", False), ("cached", True)):
            load = published(base, store.method.layer, asked, Path(folder), is_cached=is_cached)
            emit(bench="serve", load=name, clients=1, **load.figures())
            slow = args.published / load.seconds
            faster = {
                f"half_vs_{name}_at_{clients}": round(fast / slow, 1)
                for (of, clients), fast in rate.items()
                if of == "half"
            }
            emit(bench="serve_ratio", **faster)


if __name__ == "__main__":
    main()
