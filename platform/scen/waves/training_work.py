"""The training of a wave as parts that are done once each, in whatever process and order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scen.config import Config
from scen.editor.pace import ALONE, Pace
from scen.records import EncodedEdit, digest_json
from scen.snapshot.method import StoreMethod
from scen.snapshot.open import OpenStore
from scen.store.bundles import load_bundle, save_bundle
from scen.training.experts import ExpertPlan, encode_edits
from scen.training.neurons import NeuronPlan
from scen.training.parts import (
    Fitted,
    WavePlan,
    add_neurons,
    cut_parts,
    fit_part,
    join_parts,
)
from scen.waves.journal import Journal
from scen.waves.plan import Wave


@dataclass(frozen=True)
class TrainingWork:
    """The parts of a wave. A part that is done lies in a bundle of its own, named in the wave's
    journal under the content of its edits."""

    wave: Wave
    store: OpenStore
    plan: WavePlan
    edits: Sequence[EncodedEdit]
    parts: Sequence[list[int]]
    pace: Pace = ALONE

    @classmethod
    def of(cls, wave: Wave, config: Config, store: OpenStore, pace: Pace = ALONE) -> "TrainingWork":
        """The work that a wave is under these settings."""
        edits = encode_edits(store.base.template, wave.edits, other_ways=config.expert.other_ways)
        parts = cut_parts(edits, config.expert.batch_size)
        return cls(wave, store, wave_plan(config, store.method), edits, parts, pace)

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
        return fit_part(base.model, self.plan, some, base.pad_id, self.pace)

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
