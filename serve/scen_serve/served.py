"""Snapshots as they are served: the neurons of a version, and where its experts lie."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scen.editor.neurons import NeuronBank, SigmoidNeurons
from scen.routing.key_neurons import Codes, KeyNeurons
from scen.snapshot.open import OpenStore
from scen.snapshot.rows import Place
from scen_serve.expert_cache import ExpertShelf


@dataclass(frozen=True)
class ServedSnapshot:
    """One version: never changed, shared by all requests that run on it."""

    version: int
    edit_ids: tuple[str, ...]
    places: tuple[Place, ...]
    neurons: NeuronBank


class SnapshotReader:
    """Reads versions of a store, each bundle's keys once. Slow: not for the engine's thread."""

    def __init__(self, store: OpenStore, shelf: ExpertShelf) -> None:
        self._store = store
        self._shelf = shelf
        self._codes: dict[str, Codes] = {}
        self._neurons: dict[str, Tensor] = {}

    def newest(self) -> int:
        """The newest version of the ledger."""
        return self._store.ledger.version()

    def read(self, version: int | None = None) -> ServedSnapshot:
        """A version (None: the newest). Raises NotFoundError where it or a bundle is missing,
        IntegrityError where a bundle is damaged."""
        snapshot = self._store.ledger.snapshot(version)
        places = tuple(Place(entry.bundle, entry.row) for entry in snapshot.entries)
        is_paper = self._store.method.method == "scen"
        neurons = self._sigmoid(places) if is_paper else self._keys(places)
        return ServedSnapshot(snapshot.version, tuple(snapshot.ids), places, neurons)

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

    def _keys(self, places: Sequence[Place]) -> KeyNeurons:
        router = self._store.loader.router
        assert router is not None
        encoder = router.encoder
        for digest in {place.bundle for place in places} - self._codes.keys():
            key_EKF = self._shelf.read(digest)["key"].float().cpu()
            self._codes[digest] = Codes.of(encoder(key_EKF), encoder.widths)
        if not places:
            shape = (0, len(encoder.places), self._store.base.model.config.intermediate_size)
            return KeyNeurons.build(router, torch.zeros(shape))
        runs = [(self._codes[digest], rows) for digest, rows in _runs(places)]
        codes = Codes(
            torch.cat([found.int8_EKC[rows] for found, rows in runs]),
            torch.cat([found.scale_EKH[rows] for found, rows in runs]),
        )
        return KeyNeurons.of_codes(router, codes)


def _runs(places: Sequence[Place]) -> list[tuple[str, list[int]]]:
    """Neighbours in one bundle, together."""
    runs = itertools.groupby(places, key=lambda place: place.bundle)
    return [(digest, [place.row for place in run]) for digest, run in runs]
