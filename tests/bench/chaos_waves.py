"""Kills drivers, workers and registries at random, and counts what was lost or doubled.

    PYTHONPATH=tests python tests/bench/chaos_waves.py --kills 200 --ray-kills 20

A stream of 60 edits in 10 waves on a tiny base is run, killed by SIGKILL and run again until it
ends; then its store is held against that of a run without faults, and the next stream begins.
Prints one JSON line: kills by kind, streams, edits lost and doubled, and whether every store was
equal to the undisturbed one (edits, wave keys, versions, bundle digests, log, diary).
"""

import argparse
import multiprocessing
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.chaos_stream import EDITS, Fatal, content, live
from bench.random_base import make_random_base
from bench.report import emit, new_parser
from cluster.ray_head import Head, settle_environment, start_head, stop_tree

_LIFE_LIMIT_S = 300
_REGISTRY_SHARE = 0.4  # of the kills on Ray that are not of drivers


@dataclass
class Tally:
    """What came of all streams."""

    kills: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    lost: int = 0
    doubled: int = 0
    unequal: int = 0

    def compare(self, found: dict[str, Any], meant: dict[str, Any]) -> None:
        """Count a stream that has ended."""
        ids = [row[0] for row in found["edits"]]
        self.streams += 1
        self.lost += len({edit.id for edit in EDITS} - set(ids))
        self.doubled += len(ids) - len(set(ids))
        self.unequal += found != meant


def draw_fatal(chance: random.Random) -> Fatal:
    """An end for a driver in this process tree."""
    kind = chance.choice(["before write", "after write", "before write", "at once", "in commit"])
    count = chance.randint(1, 18)
    seconds = chance.uniform(0.2, 2.5) if kind == "at once" else chance.uniform(0, 0.06)
    return Fatal(kind, count, seconds)


def draw_late_fatal(chance: random.Random) -> Fatal | None:
    """An end for a driver on Ray, which takes seconds to begin; often none, for workers to die."""
    return Fatal("at once", 0, chance.uniform(8, 40)) if chance.random() < 0.5 else None


def live_once(
    arguments: tuple[Any, ...], meanwhile: Callable[[], None] = lambda: None
) -> int | None:
    """The exit status of one life in a process of its own."""
    process = multiprocessing.get_context("forkserver").Process(target=live, args=arguments)
    process.start()
    end = time.monotonic() + _LIFE_LIMIT_S
    while process.is_alive() and time.monotonic() < end:
        process.join(0.2)
        meanwhile()
    if process.is_alive():
        process.kill()
        raise SystemExit("a driver hangs")
    return process.exitcode


def campaign(tally: Tally, kills: int, root: Path, meant: dict[str, Any], base: Path) -> None:
    """Streams whose driver is killed, until there were so many kills."""
    chance = random.Random(0)
    folder = root / "local"
    while tally.kills.total() < kills:
        fatal = draw_fatal(chance)
        status = live_once((str(folder), str(base), fatal))
        if status == 0:
            tally.compare(content(folder), meant)
            shutil.rmtree(folder)
        elif status == -9:
            tally.kills[f"driver {fatal.kind}"] += 1
        else:
            raise SystemExit(f"a driver failed with {status} after {fatal}")
    if folder.exists():
        assert live_once((str(folder), str(base), None)) == 0
        tally.compare(content(folder), meant)


class Reaper:
    """Kills a worker, or the registry, of a head every few seconds."""

    def __init__(self, head: Head, chance: random.Random, tally: Tally) -> None:
        self._head, self._chance, self._tally = head, chance, tally
        self._next = time.monotonic() + 10

    def __call__(self) -> None:
        """Kill one, where it is time and there are any."""
        if time.monotonic() < self._next:
            return
        kind, there = self._draw()
        if not there:
            return
        self._chance.choice(there).kill()
        self._tally.kills[f"{kind} on Ray"] += 1
        self._next = time.monotonic() + self._chance.uniform(15, 30)

    def _draw(self) -> tuple[str, list[psutil.Process]]:
        if self._chance.random() < _REGISTRY_SHARE:
            return "registry", self._head.registries()
        return "worker", self._head.workers()


def ray_campaign(tally: Tally, kills: int, root: Path, meant: dict[str, Any], base: Path) -> None:
    """The same on Ray, where workers and registries are killed as well."""
    chance = random.Random(1)
    process, head = start_head(Path(tempfile.gettempdir()) / root.name)
    reaper, wanted = Reaper(head, chance, tally), tally.kills.total() + kills
    folder = root / "ray"
    try:
        while tally.kills.total() < wanted or folder.exists():
            fatal = draw_late_fatal(chance) if tally.kills.total() < wanted else None
            status = live_once((str(folder), str(base), fatal, head.address), reaper)
            if status == 0:
                tally.compare(content(folder), meant)
                shutil.rmtree(folder)
            elif status == -9:
                tally.kills["driver on Ray"] += 1
            else:
                raise SystemExit(f"a driver on Ray failed with {status}")
    finally:
        stop_tree(process)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--kills", type=int, default=200, help="of drivers without Ray (%(default)s)")
    add("--ray-kills", type=int, default=0, help="of drivers, workers and registries on Ray "
        "(%(default)s)")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Run both campaigns and print the counts."""
    args = parse()
    root = settle_environment()
    multiprocessing.get_context("forkserver").set_forkserver_preload(["bench.chaos_stream"])
    began, tally = time.monotonic(), Tally()
    try:
        base = make_random_base(root / "base")
        assert live_once((str(root / "whole"), str(base), None)) == 0
        meant = content(root / "whole")
        campaign(tally, args.kills, root, meant, base)
        if args.ray_kills:
            ray_campaign(tally, args.ray_kills, root, meant, base)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    emit(bench="chaos_waves", kills=tally.kills.total(), by_kind=dict(tally.kills),
         streams=tally.streams, edits_per_stream=len(EDITS), lost=tally.lost,
         doubled=tally.doubled, unequal_stores=tally.unequal,
         seconds=round(time.monotonic() - began))  # fmt: skip


if __name__ == "__main__":
    main()
