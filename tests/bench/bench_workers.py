"""A wave of real edits on SmolLM2: edits/s with one and two workers, and memory of each rank.

    PYTHONPATH=tests python tests/bench/bench_workers.py --edits 32

For one process without Ray, for one and two workers with the whole base each (replicate), and for
two workers that share one (zero3). A small wave comes first, so that workers are there and have
loaded the base. `train` and `evaluate` are seconds of the second wave; `peak_mb` is the most
anonymous memory of any rank, from its start on, `shard_mb` what a rank holds of the base. A machine
with few cores tells what sharing costs, not how it scales.
"""

import argparse
import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from bench.report import base_option, emit, new_parser
from cluster.ray_head import Head, settle_environment, start_head, stop_tree
from scen.cluster.parts import RayParts
from scen.cluster.session import ray_session
from scen.cluster.worker_group import WorkerGroup
from scen.config import Config, load_config
from scen.data import Validator, ingest
from scen.data.read import read_prompts
from scen.fs import Storage
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.run_wave import run_wave
from scen.pipeline.stream import settings
from scen.records import Edit
from scen.samples import sample_path
from scen.snapshot.open import create_store
from scen.tracking.client import NullTracker

WAYS = {"replicate-1": ("replicate", 1), "replicate-2": ("replicate", 2), "zero3-2": ("zero3", 2)}
_FIRST = 4  # edits of the wave that comes first


class Timed:
    """Parts whose steps are timed, in seconds."""

    def __init__(self, parts: LocalParts) -> None:
        self._parts = parts
        self.seconds: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._parts, name)
        return partial(self._time, name, found) if name in ("train", "evaluate") else found

    def _time(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        found = step(*arguments)
        self.seconds[name] = time.perf_counter() - began
        return found


class Meter:
    """The most anonymous memory that any worker of a head had, looked at often."""

    def __init__(self, head: Head) -> None:
        self._head, self.peak_mb = head, 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.2):
            for worker in self._head.workers():
                with contextlib.suppress(OSError, IndexError):  # it has just ended
                    self.peak_mb = max(self.peak_mb, anonymous_mb(worker.pid))


def anonymous_mb(pid: int) -> float:
    """What a process holds itself; pages of files that it maps are not counted."""
    status = Path(f"/proc/{pid}/status").read_text()
    return float(status.partition("RssAnon:")[2].split()[0]) / 1024


def config_of(base: str, workers: int, strategy: str) -> Config:
    """Settings that differ only in how the work is shared."""
    return load_config(
        fixed={
            "base": {"name": base, "dtype": "float32", "device": "cpu"},
            "cluster": {"workers": workers, "strategy": strategy},
            "expert": {"batch_size": 8},
            "evaluation": {"batch_size": 16},
        }
    )


def run_waves(folder: Path, edits: list[Edit], make: Any, config: Config) -> Timed:
    """A small wave, then the one that is timed."""
    neutral = read_prompts(sample_path("nq_neutral.jsonl"))
    store = create_store(Storage(str(folder)), config, neutral)
    locality = read_prompts(sample_path("nq_locality.jsonl"), 16)
    parts = Timed(make(store, config, locality, NullTracker()))
    for index, some in enumerate((edits[:_FIRST], edits[_FIRST:])):
        wave = Wave("bench", index, tuple(some), settings(config, store))
        run_wave(wave, parts, store.storage)
    return parts


def tell(strategy: str, workers: int, count: int, timed: Timed, **more: object) -> None:
    """One line."""
    train, evaluate = timed.seconds["train"], timed.seconds["evaluate"]
    emit(bench="workers", strategy=strategy, workers=workers, edits=count, train=round(train, 1),
         evaluate=round(evaluate, 1), edits_per_second=round(count / train, 3),
         edits_per_second_measured=round(count / (train + evaluate), 3), **more)  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    parser.add_argument("--edits", type=int, default=32, help="of the timed wave (%(default)s)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY",
                        help="on Ray, of %(choices)s (all)")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Print a line per way to run the wave."""
    args = parse()
    count = args.edits
    home = settle_environment()
    batches = ingest(sample_path("zsre_edits.jsonl"), Validator())
    edits = list(islice((e for batch in batches for e in batch.edits), count + _FIRST))
    process, head = start_head(home)
    try:
        config = config_of(args.base, 1, "replicate")
        timed = run_waves(home / "alone", edits, LocalParts, config)
        tell("none", 0, count, timed)
        with ray_session(head.address):
            for way in args.ways:
                strategy, workers = WAYS[way]
                config = config_of(args.base, workers, strategy)
                with Meter(head) as meter, WorkerGroup() as group:
                    timed = run_waves(home / way, edits, partial(RayParts, group=group), config)
                tell(strategy, workers, count, timed, peak_mb=round(meter.peak_mb),
                     shard_mb=round(group.figures["shard_bytes"] / 2**20, 1))  # fmt: skip
    finally:
        stop_tree(process, grace_s=2)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
