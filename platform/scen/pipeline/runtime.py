"""Where the work of a run executes (this process or a cluster), and how its progress is reported.

Estimates of training and evaluation time come from the waves a store has seen, or from defaults.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from scen.config import Config
from scen.data import Validator
from scen.data.read import read_prompts
from scen.evaluation.probes import edit_probes
from scen.fs import Storage
from scen.model.base import Base
from scen.model.weights import EMBEDDED_NAME
from scen.pipeline.local import LocalParts
from scen.records import Edit
from scen.samples import sample_path
from scen.snapshot.open import OpenStore, ReadElsewhere, Say, create_store
from scen.tracking.client import default_tracking_uri
from scen.tracking.tracker import NullTracker
from scen.tracking.wave_runs import open_tracker

MakeParts = Callable[..., LocalParts]  # called with the fields of `LocalParts`, in their order


class Steps(Protocol):
    """Hears how far each step (train, evaluate) of a wave is."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """`done` more of `total` are through."""
        ...

    def start_wave(self, name: str) -> None:
        """Another wave begins."""
        ...


class NoSteps:
    """For those who do not want to hear."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Nothing."""

    def start_wave(self, name: str) -> None:
        """Nothing."""


@contextmanager
def no_steps() -> Iterator[Steps]:
    """Nothing is shown."""
    yield NoSteps()


@dataclass(frozen=True)
class Runtime:
    """The default is this process, in silence. `make_parts` says where waves are run; on a cluster,
    whose driver does without the base's weights, `read_elsewhere` reads what a new store needs of
    them. `say` is given a line for each thing that takes long, `steps` is open while waves run."""

    make_parts: MakeParts = LocalParts
    read_elsewhere: ReadElsewhere | None = None
    say: Say = lambda _: None
    steps: Callable[[], AbstractContextManager[Steps]] = no_steps


def make_store(
    storage: Storage, config: Config, runtime: Runtime, base: Base | None = None
) -> OpenStore:
    """Open a store for editing, or make it, with the sample of neutral prompts. Raises as
    `create_store` does."""
    neutral = read_prompts(sample_path("nq_neutral.jsonl"))
    return create_store(storage, config, neutral, runtime.say, runtime.read_elsewhere, base)


def open_parts(
    store: OpenStore,
    config: Config,
    steps: Steps,
    locality: str | None,
    tracking_uri: str | None,
    make_parts: MakeParts,
) -> LocalParts:
    """What runs waves, with the locality prompts of a file, or of the sample, and a tracker."""
    prompts = read_prompts(
        locality or sample_path("nq_locality.jsonl"), config.evaluation.locality_limit
    )
    tracker = open_tracker(tracking_uri) if tracking_uri else NullTracker()
    return make_parts(store, config, prompts, tracker, steps)


def tracking_uri_of(storage: Storage) -> str:
    """Where the waves of a store are tracked: the environment's MLflow, or one in the store."""
    return default_tracking_uri(storage.local_path if storage.is_local else None)


def make_validator(parts: LocalParts, allow_null_text: bool = False) -> Validator:
    """A validator that knows the tokens of the base. `allow_null_text` as in `Validator`."""
    template = copy.deepcopy(parts.store.base.template)  # used by the thread that reads ahead
    may_contradict = parts.config.waves.on_conflict != "quarantine"
    return Validator(
        tokenize=template.tokenize,
        unk_id=template.tokenizer.unk_token_id,
        control_names=template.control_names,
        may_contradict=may_contradict,
        allow_null_text=allow_null_text,
    )


_RECENT = 20  # waves: enough for a median, and few files to read


@dataclass(frozen=True, slots=True)
class WavePace:
    """Seconds that an edit takes to be trained, and a prompt to be measured; `is_rough` where the
    store has told nothing of it."""

    per_edit: float
    per_probe: float
    is_rough: bool = False


# SmolLM2-135M-Instruct on two CPU cores.
_ROUGH = WavePace(per_edit=0.3, per_probe=0.2, is_rough=True)


def find_pace(storage: Storage, base_name: str | None) -> WavePace | None:
    """The pace of the newest waves of a store, median. In a store without waves: a guess for the
    embedded base (which no name means, too), and None for another."""
    files = [f for f in storage.files("waves") if f.path.endswith("/evaluated.json")]
    newest = sorted(files, key=lambda file: file.written_at)[-_RECENT:]
    found = [storage.read_json(file.path) for file in newest]
    train = [wave["seconds"] / wave["report"]["n_edits"] for wave in found]
    probe = [wave["latency"]["seconds_per_probe"] for wave in found if wave.get("latency")]
    if train:  # waves of earlier releases have not kept how long they were measured
        return WavePace(median(train), median(probe or [_ROUGH.per_probe]), is_rough=not probe)
    return _ROUGH if base_name in (None, EMBEDDED_NAME) else None


def count_probes(edits: Sequence[Edit], num_earlier: int, num_locality: int, config: Config) -> int:
    """The prompts that a wave of edits is measured with, after so many that are active."""
    earlier = min(num_earlier, config.evaluation.retention_limit)
    return len(edit_probes(edits)) + earlier + num_locality
