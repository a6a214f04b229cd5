"""How long after its commit a new version is served, with and without requests running.

    PYTHONPATH=tests python tests/bench/bench_swap.py

A service of 64 real edits follows its ledger as `scen serve` does (a look each half second).
Commits of the same experts under other ids come one after the other; a commit is served when the
engine has its version. `clients` requests are kept running meanwhile.
"""

import argparse
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.bench_serve import make_store, mixed
from bench.report import base_option, emit, new_parser
from bench.serve_load import MAX_TOKENS
from scen.ledger.actions import WaveCommit
from scen.records import EncodedPrompt
from scen.snapshot.open import OpenStore
from scen_serve.engine.request import Ended, Event, Failed, Request, Sampling
from scen_serve.service import Service
from scen_serve.settings import EngineLimits

LOOK_S = 0.005


def wait_for(condition: Callable[[], bool]) -> None:
    """Look until it holds."""
    while not condition():
        time.sleep(LOOK_S)


def commit_more(store: OpenStore, number: int) -> int:
    """The edits of version 1 under other ids and prompts; the version that has them too."""
    snapshot = store.ledger.snapshot()
    first = [entry for entry in snapshot.entries if entry.version == 1]
    edits = [
        replace(
            e.edit, id=f"{e.edit_id}-{number}", prompt=f"{e.edit.prompt} ({number})", subject=None
        )
        for e in first
    ]
    commit = WaveCommit(f"more-{number}", "more", number, first[0].bundle, edits)
    return store.ledger.commit(commit, snapshot.version).version


@contextmanager
def running(service: Service, prompts: list[EncodedPrompt], clients: int) -> Iterator[list[str]]:
    """Keeps so many requests in flight; yields the list of their failures."""
    left, failures = itertools.cycle(prompts), list[str]()
    stop = threading.Event()

    def ask() -> None:
        def sink(event: Event) -> None:
            if isinstance(event, Failed):
                failures.append(str(event.error))
            if isinstance(event, Ended | Failed) and not stop.is_set():
                ask()

        service.engine.submit(Request(next(left), Sampling(MAX_TOKENS)), sink)

    for _ in range(clients):
        ask()
    yield failures
    stop.set()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    base_option(parser)
    parser.add_argument(
        "--commits", type=int, default=10, help="per number of clients (%(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    """A line per number of clients."""
    args = parse()
    commits = args.commits
    with tempfile.TemporaryDirectory() as folder:
        store, edited = make_store(Path(folder), args.base)
        _, half = mixed(store, edited, 64)
        service = Service(store, EngineLimits())
        service.start()
        wait_for(lambda: service.is_ready)
        for turn, clients in enumerate((0, 8, 32)):
            seconds = []
            with running(service, half, clients) as failures:
                for number in range(commits):
                    version = commit_more(store, turn * commits + number)
                    seconds.append(seconds_until_served(service, version))
            emit(bench="swap", clients=clients, commits=commits, failures=len(failures),
                 served_after_s_median=round(statistics.median(seconds), 3),
                 served_after_s_max=round(max(seconds), 3))  # fmt: skip
        service.stop()


def seconds_until_served(service: Service, version: int) -> float:
    """From now on."""

    def is_served() -> bool:
        snapshot = service.engine.snapshot
        return snapshot is not None and snapshot.version == version

    began = time.perf_counter()
    wait_for(is_served)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
