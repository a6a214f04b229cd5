"""`kill -9` at each step of a wave: the stream is run again, and nothing is lost or doubled."""

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import forked
from e2e import killed_stream
from scen.fs import Storage
from scen.ledger.ledger import open_ledger

EDIT_IDS = [f"edit-{i}" for i in range(6)]
# The steps that leave a mark and are not done again, with the moment that shows them done.
MARKS = {"trained": "after train", "evaluated": "after evaluate", "tracked": "told"}

# Where a run dies; the marks of that wave, and the ledger's version, that it leaves.
POINTS = [
    ("scen-lr", "0 before train", [], 0),
    ("scen-lr", "1 after train", [], 1),  # the bundle is written
    ("scen", "1 after train", [], 1),  # its neurons have the first wave as negatives
    ("scen-lr", "0 before evaluate", ["trained"], 0),
    ("scen-lr", "1 after evaluate", ["trained"], 1),  # the lines are written
    ("scen-lr", "0 before commit", ["trained", "evaluated"], 0),
    ("scen-lr", "0 after commit", ["trained", "evaluated"], 1),
    ("scen-lr", "1 told", ["trained", "evaluated"], 2),  # the tracker has it
    ("scen-lr", "0 after track", ["trained", "evaluated", "tracked"], 1),
]

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Life:
    """What is left of a store's runs. `dead` is what the killed run left, as (its exit status, the
    marks of each wave, the ledger's version); `told` what the last run says that it did."""

    store: Storage
    diary: Storage
    dead: tuple[int, dict[int, list[str]], int] | None
    told: dict[str, Any]


def start(folder: Path, base: Path, method: str, point: str | None = None) -> int:
    """The exit status of one run of the stream in a process of its own; what it did is in `told`.

    One thread each: runs share the machine two by two, and sums keep their order.
    """
    places = [str(folder / name) for name in ("store", "diary", "told")]
    return forked.live(folder / "log", killed_stream.run, *places, str(base), method, point)


def marks_of(store: Storage) -> dict[int, list[str]]:
    """Per wave, the steps that are marked as done."""
    found: dict[int, list[str]] = {0: [], 1: []}
    for name in store.names("waves"):
        _, key, *file = name.split("/")
        step = "/".join(file).removesuffix(".json")
        if step in MARKS:
            found[int(key.split("-")[1])].append(step)
    return {wave: sorted(steps, key=list(MARKS).index) for wave, steps in found.items()}


def live(folder: Path, base: Path, method: str, point: str | None) -> Life:
    """A run that is killed, where there is a point, and one that is not."""
    store, dead = Storage(str(folder / "store")), None
    if point is not None:
        status = start(folder, base, method, point)
        dead = (status, marks_of(store), open_ledger(store).version())
    assert start(folder, base, method) == 0, (folder / "log").read_text()
    told = json.loads((folder / "told").read_text())
    return Life(store, Storage(str(folder / "diary")), dead, told)


LifeOf = Callable[[str, str | None], Life]


@pytest.fixture(scope="module")
def life_of(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LifeOf]:
    """The life of a store by method and point. Two are lived at a time."""
    lives: dict[tuple[str, str | None], Future[Life]] = {}
    with ThreadPoolExecutor(2) as pool:
        for key in [("scen-lr", None), ("scen", None), *((m, p) for m, p, _, _ in POINTS)]:
            folder = tmp_path_factory.mktemp("life")
            lives[key] = pool.submit(live, folder, tiny_folder, *key)
        yield lambda method, point: lives[method, point].result()
        pool.shutdown(cancel_futures=True)


def content(life: Life) -> dict[str, Any]:
    """All that must not depend on how often a stream was killed."""
    ledger = open_ledger(life.store)
    entries = ledger.snapshot().entries
    return {
        "edits": [(e.edit_id, e.edit.digest, e.wave_key, e.version) for e in entries],
        "experts": [(e.bundle, e.row) for e in entries],
        "bundles": life.store.names("bundles"),
        "commits": [(c.version, c.wave_key, c.num_edits, c.metadata) for c in ledger.log()],
        "diary": {name: life.diary.read_json(name) for name in life.diary.names("")},
        "marks": marks_of(life.store),
    }


@pytest.mark.parametrize("method", ["scen-lr", "scen"])
def test_an_undisturbed_stream(life_of: LifeOf, method: str) -> None:
    life = life_of(method, None)
    found = content(life)
    assert [edit_id for edit_id, *_ in found["edits"]] == EDIT_IDS
    assert [version for *_, version in found["edits"]] == [1, 1, 1, 2, 2, 2]
    assert [row for _, row in found["experts"]] == [0, 1, 2, 0, 1, 2]
    assert len({bundle for bundle, _ in found["experts"]}) == 2
    assert [(version, count) for version, _, count, _ in found["commits"]] == [(1, 3), (2, 3)]
    assert sorted(row["version"] for row in found["diary"].values()) == [1, 2]
    assert found["marks"] == {0: list(MARKS), 1: list(MARKS)}


@pytest.mark.parametrize(("method", "point", "marks", "version"), POINTS)
def test_a_killed_stream_is_simply_run_again(
    life_of: LifeOf, method: str, point: str, marks: list[str], version: int
) -> None:
    life, wave = life_of(method, point), int(point[0])
    others = list(MARKS) if wave else []
    assert life.dead == (-signal.SIGKILL, {wave: marks, 1 - wave: others}, version)
    first, again = life.told["first"], life.told["again"]
    work = [f"{w} {moment}" for w in range(wave, 2) for moment in MARKS.values()]
    done = [f"{wave} {MARKS[mark]}" for mark in marks]
    passed = [moment for moment in first["passed"] if moment[2:] in MARKS.values()]
    assert passed == [moment for moment in work if moment not in done]
    assert content(life) == content(life_of(method, None))
    assert [version for version, _ in first["steps"]] == [1, 2]
    assert again["steps"] == first["steps"]
    assert not [moment for moment in again["passed"] if moment[2:] in MARKS.values()]
