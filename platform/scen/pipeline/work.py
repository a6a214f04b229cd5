"""Work cut into numbered pieces that several ranks share, each piece done and recorded once.

`TrainingWork` trains the parts of a wave, `KeysWork` reads the keys of prompts in batches;
`scen.pipeline.evaluation_work` is the third kind. `do_share` runs one rank's pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
from scen.snapshot.method import StoreMethod
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
    """The pieces of `TrainingWork` (parts) or `EvaluationWork` (batches)."""

    @property
    def sync(self) -> RankSync:
        """How ranks that share a base keep in step."""
        ...

    @property
    def task(self) -> Any:
        """What another process makes the same pieces from."""
        ...

    @property
    def count(self) -> int:
        """How many pieces there are."""
        ...

    def size(self, index: int) -> int:
        """Edits or prompts of a piece."""
        ...

    def is_done(self, index: int) -> bool:
        """True where a piece is written down."""
        ...

    def run(self, index: int) -> Any:
        """Do a piece, and keep nothing."""
        ...

    def keep(self, index: int, found: Any) -> None:
        """Write down what a piece came to."""
        ...


def do_share(work: SharedWork, rank: int, world: int) -> None:
    """Do each `world`-th piece from `rank` on that is not done yet.

    Ranks of a sharded base go in step: one that has no piece left repeats one for nothing.
    """
    mine = [i for i in range(work.count) if i % world == rank and not work.is_done(i)]
    for step in range(work.count + 1):
        if not work.sync.anyone(step < len(mine)):
            return
        if step < len(mine):
            work.keep(mine[step], work.run(mine[step]))
        else:
            work.run(0)


@dataclass(frozen=True)
class KeysTask:
    """Prompts to be read at these places. `folder` of the store's storage is for the keys until
    they are collected; it is the task's own, as it is emptied then."""

    places: tuple[KeyPlace, ...]
    prompts: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class KeysWork:
    """The prompts in batches, like beside like; a batch that was read lies in the folder."""

    task: KeysTask
    storage: Storage
    base: Base
    batches: Sequence[list[int]]
    sync: RankSync = NO_SYNC

    @classmethod
    def of(
        cls, task: KeysTask, storage: Storage, base: Base, sync: RankSync = NO_SYNC
    ) -> "KeysWork":
        """The work that a task is on a base."""
        encoded = [base.template.encode_prompt(prompt) for prompt in task.prompts]
        return cls(task, storage, base, batch_prompts(encoded), sync)

    @property
    def count(self) -> int:
        """How many batches there are."""
        return len(self.batches)

    def size(self, index: int) -> int:
        """Prompts of a batch."""
        return len(self.batches[index])

    def is_done(self, index: int) -> bool:
        """True where a batch was read, here or elsewhere."""
        return self.storage.exists(self._path(index))

    def run(self, index: int) -> Tensor:
        """Read a batch, and keep nothing."""
        some = [self.task.prompts[i] for i in self.batches[index]]
        return read_prompt_keys(self.base, self.task.places, some, sync=self.sync)

    def keep(self, index: int, found: Any) -> None:
        """Write down the keys of a batch."""
        self.storage.put_new(self._path(index), safetensors.torch.save({"key": found}))

    def collect(self) -> Tensor:
        """key_NKF float16 in the order of the prompts, once; all batches must be done."""
        paths = [self._path(index) for index in range(self.count)]
        parts = [safetensors.torch.load(self.storage.read(path))["key"] for path in paths]
        for path in paths:
            self.storage.delete(path)
        order = torch.tensor([i for batch in self.batches for i in batch])
        return torch.cat(parts)[order.argsort()]

    def _path(self, index: int) -> str:
        return f"{self.task.folder}/{index:05d}.safetensors"


@dataclass(frozen=True)
class TrainingWork:
    """The parts of a wave. A part that is done lies in a bundle of its own, named in the wave's
    journal under the content of its edits."""

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
        """The work that a wave is under these settings."""
        edits = encode_edits(store.base.template, wave.edits, other_ways=config.expert.other_ways)
        parts = cut_parts(edits, config.expert.batch_size)
        return cls(wave, store, wave_plan(config, store.method), edits, parts, sync)

    @property
    def task(self) -> Wave:
        """The wave."""
        return self.wave

    @property
    def count(self) -> int:
        """How many parts there are."""
        return len(self.parts)

    def size(self, index: int) -> int:
        """Edits of a part."""
        return len(self.parts[index])

    def is_done(self, index: int) -> bool:
        """True where a part was trained, here or elsewhere."""
        return self._journal.has(self._step(index))

    def run(self, index: int) -> Fitted:
        """Train a part, and keep nothing."""
        some, base = [self.edits[i] for i in self.parts[index]], self.store.base
        return fit_part(base.model, self.plan, some, base.pad_id, self.sync)

    def keep(self, index: int, fitted: Fitted) -> None:
        """Write down a part that was trained."""
        self._journal.once(self._step(index), lambda: self._save(fitted))

    def collect(self, history_HF: Tensor | None) -> Fitted:
        """The whole wave from its parts, all of which are done. See `add_neurons`."""
        found = []
        for index in range(len(self.parts)):
            done = self._journal.read(self._step(index))
            found.append(Fitted(load_bundle(self.store.storage, done["bundle"]), done["losses"]))
        joined = join_parts(self.parts, found)
        return add_neurons(joined, self.plan, [edit.seed for edit in self.edits], history_HF)

    @property
    def _journal(self) -> Journal:
        return Journal(self.store.storage, self.wave.key)

    def _step(self, index: int) -> str:
        digests = [self.wave.edits[i].digest for i in self.parts[index]]
        return f"parts/{digest_json(digests)[:16]}"

    def _save(self, fitted: Fitted) -> dict[str, Any]:
        bundle = save_bundle(self.store.storage, fitted.tensors)
        return {"bundle": bundle, "losses": fitted.losses}


def wave_plan(config: Config, method: StoreMethod) -> WavePlan:
    """How a wave of a store of this method is trained."""
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
