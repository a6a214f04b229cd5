"""Work in numbered pieces shared by several ranks, each piece done and recorded once.

`TrainingWork` trains the parts of a wave, `KeysWork` reads the keys of prompts in batches,
`CalibrationWork` calibrates a new base, and `EvaluationWork` (`scen.pipeline.evaluation_work`)
evaluates. `do_share` runs one rank's pieces.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from scen.config import Config
from scen.fs import Storage
from scen.ledger.tensors import load_bundle, save_bundle
from scen.model.base import Base
from scen.model.decoder import NO_SYNC, RankSync
from scen.model.keys import KeyPlace
from scen.pipeline.plan import Journal, Wave
from scen.records import EncodedEdit, digest_json
from scen.routing.keys import batch_prompts, read_prompt_keys
from scen.snapshot.load import stored_form
from scen.snapshot.method import Profile, StoreMethod, load_profile, save_profile
from scen.snapshot.open import OpenStore
from scen.training.experts import ExpertPlan, encode_edits
from scen.training.parts import (
    Fitted,
    NeuronPlan,
    WavePlan,
    add_neurons,
    cut_parts,
    fit_part,
    join_parts,
)


class SharedWork(Protocol):
    """The protocol of the works of this module and of `EvaluationWork`."""

    @property
    def sync(self) -> RankSync:
        """The synchronisation of ranks that share a sharded base."""
        ...

    @property
    def task(self) -> Any:
        """The value from which another process builds the same pieces."""
        ...

    @property
    def count(self) -> int:
        """Number of pieces."""
        ...

    def size(self, index: int) -> int:
        """Number of edits or prompts in a piece."""
        ...

    def is_done(self, index: int) -> bool:
        """True if a piece is recorded."""
        ...

    def run(self, index: int) -> Any:
        """Run a piece without recording it."""
        ...

    def keep(self, index: int, result: Any) -> None:
        """Record the result of a piece."""
        ...


def do_share(work: SharedWork, rank: int, world: int) -> None:
    """Run every `world`-th piece from `rank` on that is not done yet.

    Ranks of a sharded base stay in lockstep: one without pieces left repeats one as a no-op.
    """
    mine = [i for i in range(work.count) if i % world == rank and not work.is_done(i)]
    for step in range(work.count + 1):
        if not work.sync.any_rank(step < len(mine)):
            return
        if step < len(mine):
            work.keep(mine[step], work.run(mine[step]))
        else:
            work.run(0)


@dataclass(frozen=True)
class KeysTask:
    """Prompts whose keys are read at these places. `folder` in the store holds the keys until they
    are collected; it must be unique to the task, since it is then emptied."""

    places: tuple[KeyPlace, ...]
    prompts: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class KeysWork:
    """The prompts in batches of similar length; finished batches are in the folder of the task."""

    task: KeysTask
    storage: Storage
    base: Base
    batches: Sequence[list[int]]
    sync: RankSync = NO_SYNC

    @classmethod
    def of(
        cls, task: KeysTask, storage: Storage, base: Base, sync: RankSync = NO_SYNC
    ) -> "KeysWork":
        """Build the work of a task on a base."""
        encoded = [base.template.encode_prompt(prompt) for prompt in task.prompts]
        return cls(task, storage, base, batch_prompts(encoded), sync)

    @property
    def count(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def size(self, index: int) -> int:
        """Number of prompts in a batch."""
        return len(self.batches[index])

    def is_done(self, index: int) -> bool:
        """True if a batch is in the folder."""
        return self.storage.exists(self._path(index))

    def run(self, index: int) -> Tensor:
        """Read the keys of a batch without recording them."""
        prompts = [self.task.prompts[i] for i in self.batches[index]]
        return read_prompt_keys(self.base, self.task.places, prompts, sync=self.sync)

    def keep(self, index: int, result: Any) -> None:
        """Record the keys of a batch."""
        self.storage.put_new(self._path(index), safetensors.torch.save({"key": result}))

    def collect(self) -> Tensor:
        """key_NKF float16 in the order of the prompts. Requires all batches to be done, and deletes
        them."""
        paths = [self._path(index) for index in range(self.count)]
        parts = [safetensors.torch.load(self.storage.read(path))["key"] for path in paths]
        for path in paths:
            self.storage.delete(path)
        order = torch.tensor([i for batch in self.batches for i in batch])
        return torch.cat(parts)[order.argsort()]

    def _path(self, index: int) -> str:
        return f"{self.task.folder}/{index:05d}.safetensors"


@dataclass(frozen=True)
class CalibrationTask:
    """The calibration of a new base. `folder` in the store holds the profile until it is collected;
    it must be unique to the task, since it is then emptied."""

    folder: str


@dataclass(frozen=True)
class CalibrationWork:
    """One piece, the profile of a base that is whole in each rank. `make` makes it; a profile of
    None means that the base cannot be calibrated."""

    task: CalibrationTask
    storage: Storage
    make: Callable[[], Profile | None]
    sync: RankSync = NO_SYNC
    count: int = 1

    def size(self, index: int) -> int:
        """One profile."""
        return 1

    def is_done(self, index: int) -> bool:
        """True if the profile is in the folder."""
        return self.storage.exists(self._path(_DONE))

    def run(self, index: int) -> Profile | None:
        """Make the profile without recording it."""
        return self.make()

    def keep(self, index: int, result: Any) -> None:
        """Record the profile; last a file that marks it as complete."""
        with tempfile.TemporaryDirectory() as folder:
            if result is not None:
                save_profile(result, Path(folder, "profile.json"))
            names = sorted(path.name for path in Path(folder).iterdir())
            for name in names:
                self.storage.put_new(self._path(name), Path(folder, name).read_bytes())
        self.storage.put_json(self._path(_DONE), {"files": names})

    def collect(self) -> Profile | None:
        """The profile. Requires it to be done, and deletes it from the folder."""
        names = self.storage.read_json(self._path(_DONE))["files"]
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                Path(folder, name).write_bytes(self.storage.read(self._path(name)))
            profile = load_profile(Path(folder, "profile.json")) if names else None
        for name in (*names, _DONE):
            self.storage.delete(self._path(name))
        return profile

    def _path(self, name: str) -> str:
        return f"{self.task.folder}/{name}"


_DONE = "done.json"


@dataclass(frozen=True)
class TrainingWork:
    """The parts of a wave. Each finished part is a bundle, recorded in the wave's journal by a
    digest of its edits."""

    wave: Wave
    store: OpenStore
    plan: WavePlan
    edits: Sequence[EncodedEdit]
    parts: Sequence[list[int]]
    sync: RankSync = NO_SYNC

    @classmethod
    def of(
        cls, wave: Wave, config: Config, store: OpenStore, sync: RankSync = NO_SYNC
    ) -> "TrainingWork":
        """Build the work of a wave under these settings."""
        edits = encode_edits(store.base.template, wave.edits, other_ways=config.expert.other_ways)
        parts = cut_parts(edits, config.expert.batch_size)
        return cls(wave, store, wave_plan(config, store.method), edits, parts, sync)

    @property
    def task(self) -> Wave:
        """The wave."""
        return self.wave

    @property
    def count(self) -> int:
        """Number of parts."""
        return len(self.parts)

    def size(self, index: int) -> int:
        """Number of edits in a part."""
        return len(self.parts[index])

    def is_done(self, index: int) -> bool:
        """True if a part is in the journal."""
        return self._journal.has(self._step(index))

    def run(self, index: int) -> Fitted:
        """Train a part without recording it."""
        edits, base = [self.edits[i] for i in self.parts[index]], self.store.base
        return fit_part(base.model, self.plan, edits, base.pad_id, self.sync)

    def keep(self, index: int, fitted: Fitted) -> None:
        """Record a trained part."""
        self._journal.once(self._step(index), lambda: self._save(fitted))

    def collect(self, history_HF: Tensor | None) -> Fitted:
        """The whole wave. Requires all parts to be done. See `add_neurons`."""
        fitted = []
        for index in range(len(self.parts)):
            done = self._journal.read(self._step(index))
            fitted.append(Fitted(load_bundle(self.store.storage, done["bundle"]), done["losses"]))
        joined = join_parts(self.parts, fitted)
        return add_neurons(joined, self.plan, [edit.seed for edit in self.edits], history_HF)

    @property
    def _journal(self) -> Journal:
        return Journal(self.store.storage, self.wave.key)

    def _step(self, index: int) -> str:
        digests = [self.wave.edits[i].digest for i in self.parts[index]]
        return f"parts/{digest_json(digests)[:16]}"

    def _save(self, fitted: Fitted) -> dict[str, Any]:
        store = self.store
        stored = stored_form(fitted.tensors, store.method, store.loader.router)
        bundle = save_bundle(store.storage, stored)
        return {"bundle": bundle, "losses": fitted.losses}


def wave_plan(config: Config, method: StoreMethod) -> WavePlan:
    """The training plan of a wave for a store of this method."""
    expert, router = method.fill(config.expert), config.router
    return WavePlan(
        expert=ExpertPlan(
            config.method,
            method.layer,
            expert.steps,
            expert.lr,
            method.rank,
            expert.stop_loss,
            expert.other_ways,
        ),
        places=method.places,
        neurons=NeuronPlan(router.neuron_steps, router.neuron_lr, router.neuron_optimizer),
    )
