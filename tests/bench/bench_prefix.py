"""Time to the first token behind a long system prompt, with and without the cache of prefixes.

    PYTHONPATH=tests python tests/bench/bench_prefix.py
    PYTHONPATH=tests python tests/bench/bench_prefix.py --requests 2    # a quick look

Two engines on one base, without edits: `off` runs each prompt whole, `on` as `scen serve` does.
Both are asked the same questions behind the same system prompt, one at a time, in turns (off, on,
on, off), after another question each. Medians; `_cpu` is time of the processor, which a busy
machine does not stretch. `same_answers` are those whose tokens are equal; in bfloat16 not all need
be.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.plain_store import make_plain_store
from bench.report import base_option, emit, new_parser
from scen.data.read import read_prompts
from scen.records import EncodedPrompt
from scen.samples import sample_path
from scen.snapshot.open import OpenStore
from scen_serve.engine.caches import ExpertCache, HostExpertCache, empty_bank
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import Ended, Event, Piece, Request, Sampling
from scen_serve.engine.snapshots import SnapshotReader
from scen_serve.settings import EngineLimits

TURNS = ("off", "on", "on", "off")
MAX_TOKENS = 8
RULE = "Answer question {} about places with one name only, and say so where you do not know it. "


@dataclass
class Asked:
    """What an engine was asked: milliseconds to each first token, and the answers."""

    engine: Engine
    first_ms: list[float] = field(default_factory=list)
    first_cpu_ms: list[float] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    def ask(self, prompt: EncodedPrompt) -> None:
        """One prompt alone."""
        events: list[Event] = []
        began, began_cpu = time.perf_counter(), time.process_time()

        def sink(event: Event) -> None:
            if isinstance(event, Piece | Ended) and len(self.first_ms) == len(self.answers):
                self.first_ms.append(1000 * (time.perf_counter() - began))
                self.first_cpu_ms.append(1000 * (time.process_time() - began_cpu))
            events.append(event)

        self.engine.submit(Request(prompt, Sampling(MAX_TOKENS)), sink)
        while not (events and isinstance(events[-1], Ended)):
            self.engine.step()
        self.answers.append("".join(event.text for event in events if isinstance(event, Piece)))


def make_engine(store: OpenStore, limits: EngineLimits) -> Engine:
    """As `scen serve` makes it."""
    host = HostExpertCache(store.storage, ("down", "up"), limits.host_bytes)
    config = store.base.model.config
    bank = empty_bank(config, store.method.rank, limits.expert_slots, store.base.device)
    engine = Engine(store.base, store.method.layer, ExpertCache(bank, host), limits)
    engine.snapshot = SnapshotReader(store, host).read()
    return engine


def make_prompts(store: OpenStore, tokens: int, count: int) -> list[EncodedPrompt]:
    """Questions behind a system prompt of at least so many tokens."""
    template, system = store.base.template, ""
    for number in itertools.count():
        if len(store.base.tokenizer(system)["input_ids"]) >= tokens:
            break
        system += RULE.format(number)
    questions = itertools.cycle(read_prompts(sample_path("nq_locality.jsonl"), 100))
    return [
        template.encode_chat(
            [{"role": "system", "content": system}, {"role": "user", "content": next(questions)}]
        )
        for _ in range(count)
    ]


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    add = parser.add_argument
    add("--tokens", type=int, default=300, help="of the system prompt (%(default)s)")
    add("--requests", type=int, default=8, help="questions (%(default)s)")
    return parser.parse_args(words)


def main() -> None:
    """A line per engine, then the ratio."""
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        store = make_plain_store(Path(folder), args.base)
        limits = EngineLimits()
        engines = {
            "off": make_engine(store, replace(limits, prefix_bytes=0)),
            "on": make_engine(store, limits),
        }
        first, *prompts = make_prompts(store, args.tokens, args.requests + 1)
        for engine in engines.values():
            Asked(engine).ask(first)
        asked = {name: Asked(engine) for name, engine in engines.items()}
        for prompt, name in itertools.product(prompts, TURNS):
            asked[name].ask(prompt)
        for name, one in asked.items():
            prefixes = one.engine.prefixes
            emit(bench="prefix", cache=name, prompt_tokens=len(first.ids), asked=len(one.answers),
                 hits=prefixes.counts.hits, tokens_saved=prefixes.counts.tokens,
                 cache_mb=round(prefixes.num_bytes / 1e6, 1),
                 first_token_ms=round(statistics.median(one.first_ms), 1),
                 first_token_cpu_ms=round(statistics.median(one.first_cpu_ms), 1))  # fmt: skip
        off, on = asked["off"], asked["on"]
        ratios = {
            "off_vs_on": statistics.median(off.first_ms) / statistics.median(on.first_ms),
            "off_vs_on_cpu": statistics.median(off.first_cpu_ms)
            / statistics.median(on.first_cpu_ms),
        }
        same = sum(one == other for one, other in zip(off.answers, on.answers, strict=True))
        rounded = {name: round(ratio, 2) for name, ratio in ratios.items()}
        emit(bench="prefix_ratio", same_answers=same, asked=len(on.answers), **rounded)


if __name__ == "__main__":
    main()
