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
"""

import argparse
import copy
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

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
from scen.records import EncodedPrompt
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
    config = load_config(fixed={"expert": {"steps": 3}, "base": {"name": base}})
    neutral = read_prompts(sample_path("nq_neutral.jsonl"))
    store = create_store(Storage(str(folder / "store")), config, neutral)
    batches = ingest(sample_path("zsre_edits.jsonl"), Validator(), limit=EDITS)
    edits = tuple(itertools.chain.from_iterable(batch.edits for batch in batches))
    parts = LocalParts(store, config, [], NullTracker())
    wave = Wave("bench", 0, edits, settings(config, store))
    parts.commit(wave, parts.train(wave), {"report": {"reliability": None}})
    return store, [edit.prompt for edit in edits]


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


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    add = parser.add_argument
    add("--requests", type=int, default=96, help="per load (%(default)s)")
    add("--published", type=int, default=24, help="requests, of the slow baseline (%(default)s)")
    add("--clients", type=numbers, default="1,8,32", help="at a time (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Print a line per load and number of clients, then the ratios."""
    args = parse()
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
