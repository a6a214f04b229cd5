"""Snapshots as they are served: the neurons of a version, and where its experts lie."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scen.editor.neurons import NeuronBank, SigmoidNeurons
from scen.ledger.state import Snapshot
from scen.routing.key_neurons import KeyNeurons
from scen.routing.prompt_texts import unpack_texts
from scen.snapshot.open import OpenStore
from scen.snapshot.rows import Place
from scen_serve.expert_cache import ExpertShelf
from scen_serve.neuron_rows import NeuronRows


@dataclass(frozen=True)
class ServedSnapshot:
    """One version: never changed, shared by all requests that run on it."""

    version: int
    edit_ids: tuple[str, ...]
    places: tuple[Place, ...]
    neurons: NeuronBank

    def span(self, edit_id: str) -> str | None:
        """The words of an edit's prompt that spans of messages are compared with; None where
        the router knows no words."""
        if not isinstance(self.neurons, KeyNeurons):
            return None
        return self.neurons.text(self.edit_ids.index(edit_id)) or None


class SnapshotReader:
    """Reads versions of a store, the keys of each edit once. Slow: not for the engine's thread.

    Versions share one bank of keys, in which new edits are appended (method `scen-lr`).
    """

    def __init__(self, store: OpenStore, shelf: ExpertShelf) -> None:
        self._store = store
        self._shelf = shelf
        self._places: dict[str, Place] = {}  # by the edits' ids
        self._neurons: dict[str, Tensor] = {}
        router = store.loader.router
        self._rows = None if router is None else NeuronRows(router, self._read_keys)

    def newest(self) -> int:
        """The newest version of the ledger."""
        return self._store.ledger.version()

    def read(self, version: int | None = None) -> ServedSnapshot:
        """A version (None: the newest). Raises NotFoundError where it or a bundle is missing, or
        was noted as deleted by `scen gc`, IntegrityError where a bundle is damaged."""
        snapshot = self._store.ledger.snapshot(version)
        places = self._find_places(snapshot)
        neurons = self._rows.neurons(snapshot) if self._rows else self._sigmoid(places)
        self._store.ledger.require_experts(snapshot)
        return ServedSnapshot(snapshot.version, tuple(snapshot.ids), places, neurons)

    def _find_places(self, snapshot: Snapshot) -> tuple[Place, ...]:
        """Of all edits; versions share them."""
        for entry in snapshot.entries:
            if entry.edit_id not in self._places:
                self._places[entry.edit_id] = Place(entry.bundle, entry.row)
        return tuple([self._places[edit_id] for edit_id in snapshot.ids])

    def _sigmoid(self, places: Sequence[Place]) -> SigmoidNeurons:
        store = self._store
        assert store.method.theta is not None
        for digest in {place.bundle for place in places} - self._neurons.keys():
            self._neurons[digest] = self._shelf.read(digest)["neuron"].float()
        none = torch.zeros(0, store.base.model.config.intermediate_size)
        rows = [self._neurons[digest][rows] for digest, rows in _runs(places)]
        weight_EF = torch.cat([none, *rows])
        return SigmoidNeurons(
            store.method.layer, weight_EF.to(store.base.device), store.method.theta
        )

    def _read_keys(self, digest: str) -> tuple[Tensor, Sequence[str] | None]:
        bundle = self._shelf.read(digest)
        texts = unpack_texts(bundle["text"]) if self._store.loader.reads_words else None
        return bundle["key"].float().cpu(), texts


def _runs(places: Sequence[Place]) -> list[tuple[str, list[int]]]:
    """Neighbours in one bundle, together."""
    runs = itertools.groupby(places, key=lambda place: place.bundle)
    return [(digest, [place.row for place in run]) for digest, run in runs]
