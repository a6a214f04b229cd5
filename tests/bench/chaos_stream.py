"""One life of a driver that runs a stream of small waves, and may be killed anywhere."""

import os
import signal
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conftest import WORDS
from scen.cluster.parts import RayParts
from scen.cluster.session import ray_session
from scen.cluster.worker_group import WorkerGroup
from scen.config import Config, load_config
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.stream import run_stream
from scen.records import Edit, Rephrase
from scen.snapshot.open import create_store
from scen.tracking.client import WaveRecord

WAVE_SIZE = 6
NEUTRAL = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]
EDITS = [
    Edit(
        id=f"edit-{i}",
        prompt=f"Who founded {WORDS[i % 10]} {i}?",
        target=WORDS[(i * 7 + 3) % 10][:4],
        rephrases=(Rephrase(f"{WORDS[i % 10]} {i} was founded by whom?"),),
    )
    for i in range(60)
]


@dataclass(frozen=True)
class Fatal:
    """Where a life ends: around the `count`-th file that it creates (`before write`, `after
    write`), `seconds` after it began (`at once`), or after it began to commit (`in commit`)."""

    kind: str
    count: int = 0
    seconds: float = 0.0


class MortalStorage(Storage):
    """Storage that ends the process around one of the files that it creates."""

    def __init__(self, uri: str, fatal: Fatal | None) -> None:
        super().__init__(uri)
        self._fatal, self._created = fatal, 0

    def put_new(self, path: str, data: bytes) -> bool:
        """Create a file, or die before or after it."""
        self._created += 1
        self._reach("before write")
        is_new = super().put_new(path, data)
        self._reach("after write")
        return is_new

    def _reach(self, kind: str) -> None:
        fatal = self._fatal
        if fatal and fatal.kind == kind and fatal.count == self._created:
            die()


class Diary:
    """A tracker that keeps a file per wave, once by its key."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def track_wave(self, record: WaveRecord) -> str:
        """Keep a wave."""
        told = {"version": record.ledger_version, "edits": record.num_edits}
        self._storage.put_json(f"diary/{record.wave_key}.json", told)
        return record.wave_key


class MortalParts:
    """Real parts, of which the commit may be cut off."""

    def __init__(self, parts: LocalParts, fatal: Fatal | None) -> None:
        self._parts, self._fatal = parts, fatal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parts, name)

    def commit(self, wave: Wave, trained: dict[str, Any], evaluated: dict[str, Any]) -> int:
        """The commit, with the end on its heels."""
        if self._fatal and self._fatal.kind == "in commit":
            die_in(self._fatal.seconds)
        return self._parts.commit(wave, trained, evaluated)


def die() -> None:
    """No clean-up of any kind."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(seconds: float) -> None:
    """Die, whatever is going on by then."""
    timer = threading.Timer(seconds, die)
    timer.daemon = True
    timer.start()


def chaos_config(base: str, strategy: str = "replicate") -> Config:
    """Three parts per wave of six edits."""
    return load_config(
        fixed={
            "base": {"name": base, "template": "raw", "dtype": "float32", "device": "cpu"},
            "expert": {"layer": 3, "steps": 6, "lr": 0.02, "batch_size": 2},
            "evaluation": {"max_new_tokens": 6, "locality_tokens": 4, "batch_size": 4},
            "waves": {"size": WAVE_SIZE},
            "cluster": {"strategy": strategy, "max_failures": 1000, "timeout_s": 60},
        }
    )


def live(
    folder: str, base: str, fatal: Fatal | None, address: str = "", strategy: str = "replicate"
) -> None:
    """Run the stream to its end, or to the end of this process."""
    if fatal and fatal.kind == "at once":
        die_in(fatal.seconds)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as the process lives
    config = chaos_config(base, strategy)
    store = create_store(MortalStorage(folder, fatal), config, NEUTRAL)
    with ExitStack() as stack:
        make: Any = LocalParts
        if address:
            stack.enter_context(ray_session(address))
            make = partial(RayParts, group=stack.enter_context(WorkerGroup()))
        parts: Any = make(store, config, ["Where is it?"], Diary(store.storage))
        for _ in run_stream("chaos", [EDITS], store, config, MortalParts(parts, fatal)):
            pass


def content(folder: Path) -> dict[str, Any]:
    """All of a store that must not depend on who was killed when."""
    storage = Storage(str(folder))
    ledger = open_ledger(storage)
    entries = ledger.snapshot().entries
    return {
        "edits": [(e.edit_id, e.edit.digest, e.wave_key, e.version) for e in entries],
        "experts": [(e.bundle, e.row) for e in entries],
        "commits": [(c.version, c.wave_key, c.num_edits, c.metadata) for c in ledger.log()],
        "bundles": storage.names("bundles"),
        "diary": {name: storage.read_json(name) for name in storage.names("diary")},
    }
