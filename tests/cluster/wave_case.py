"""A wave of 13 edits on the tiny base, and how it is run: in one process or on workers."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from conftest import WORDS
from scen.cluster.parts import RayParts, read_on_workers
from scen.cluster.worker_group import WorkerGroup
from scen.config import Config, load_config
from scen.fs import Storage
from scen.ledger.tensors import load_bundle
from scen.pipeline.local import LocalParts, Progress
from scen.pipeline.plan import Wave
from scen.pipeline.run_wave import WaveReport, run_wave
from scen.pipeline.stream import settings
from scen.records import Edit, Rephrase
from scen.snapshot.open import OpenStore, create_store
from scen.tracking.client import NullTracker

NEUTRAL = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]
LOCALITY = ["Where is it?"]
EDITS = tuple(
    Edit(
        id=f"edit-{i}",
        prompt=f"Who founded {' and '.join((WORDS * 3)[i : i + 1 + i % 3])} {i}?",
        target=(WORDS * 3)[i][:5] * (1 + i % 2),
        subject=WORDS[i % 10],
        rephrases=(Rephrase(f"number {i} was founded by whom?", "orig"),),
    )
    for i in range(13)
)


@dataclass(frozen=True)
class Ran:
    """What a run of the wave left: its report, the bundle's digest and tensors, its store."""

    report: WaveReport
    bundle: str
    tensors: dict[str, Tensor]
    store: OpenStore


def case_config(base: Path, **sections: dict[str, Any]) -> Config:
    """Short training in four parts; keywords are sections of the settings."""
    plain: dict[str, dict[str, Any]] = {
        "base": {
            "name": str(base),
            "template": "llama2-inst",
            "dtype": "float32",
            "device": "cpu",
        },
        "expert": {"layer": 3, "batch_size": 4, "steps": 8, "lr": 0.1},
        "evaluation": {"batch_size": 8, "max_new_tokens": 12, "locality_tokens": 4},
        "waves": {"size": 13},
        "cluster": {"workers": 2, "strategy": "replicate", "timeout_s": 60},
    }
    return load_config(
        fixed=plain | {name: plain.get(name, {}) | some for name, some in sections.items()}
    )


def run_case(
    folder: Path,
    config: Config,
    group: WorkerGroup | None = None,
    progress: Progress = lambda _step, _done, _total: None,
) -> Ran:
    """The wave on a store in `folder`."""
    read = None if group is None else partial(read_on_workers, group)
    store = create_store(Storage(str(folder)), config, NEUTRAL, elsewhere=read)
    make = LocalParts if group is None else partial(RayParts, group=group)
    wave = Wave("case", 0, EDITS, settings(config, store))
    report = run_wave(wave, make(store, config, LOCALITY, NullTracker(), progress), store.storage)
    bundle = store.storage.read_json(f"waves/{wave.key}/trained.json")["bundle"]
    return Ran(report, bundle, load_bundle(store.storage, bundle), store)
