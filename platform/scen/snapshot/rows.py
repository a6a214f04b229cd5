"""Rows of bundles: the experts and neurons of edits, wherever they lie."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scen.fs import Storage
from scen.store.bundles import load_bundle


@dataclass(frozen=True)
class Place:
    """Where the expert and the neuron of one edit lie."""

    bundle: str
    row: int


@dataclass
class BundleRows:
    """The bundles of a store, each read once."""

    storage: Storage
    _bundles: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def read(self, places: Sequence[Place], names: Sequence[str]) -> dict[str, Tensor]:
        """The named tensors at these places (at least one), in this order, float32 at least.

        Raises IntegrityError where a bundle is damaged, NotFoundError where it is missing.
        """
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        for bundle, rows in _runs(places):
            stored = self._bundle(bundle)
            for name in names:
                parts[name].append(_widened(stored[name][rows]))
        return {name: torch.cat(found) for name, found in parts.items()}

    def _bundle(self, digest: str) -> dict[str, Tensor]:
        if digest not in self._bundles:
            self._bundles[digest] = load_bundle(self.storage, digest)
        return self._bundles[digest]


def _runs(places: Sequence[Place]) -> list[tuple[str, list[int]]]:
    """Neighbours in one bundle, together."""
    runs: list[tuple[str, list[int]]] = []
    for place in places:
        if not runs or runs[-1][0] != place.bundle:
            runs.append((place.bundle, []))
        runs[-1][1].append(place.row)
    return runs


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
