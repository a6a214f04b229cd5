"""Rows of bundles: the experts and neurons of edits, wherever they lie."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scen.fs import Storage
from scen.ledger.tensors import load_bundle


@dataclass(frozen=True)
class Place:
    """Where the expert and the neuron of one edit lie."""

    bundle: str
    row: int


@dataclass
class BundleRows:
    """The bundles of a store, each read once as long as they fit into `max_bytes` of memory.

    Where they do not, those that are held stay and the others are read each time: a model is made
    from all bundles in one order, so that the one used longest ago is always the next one wanted.
    """

    storage: Storage
    max_bytes: int = 1 << 30
    held_bytes: int = 0
    _bundles: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def read(self, places: Sequence[Place], names: Sequence[str]) -> dict[str, Tensor]:
        """The named tensors at these places (at least one), in this order: floats as float32 at
        least, integers as they are.

        Raises IntegrityError where a bundle is damaged, NotFoundError where it is missing.
        """
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        wanted = {place.bundle for place in places}
        spare = [digest for digest in self._bundles if digest not in wanted]
        for bundle, rows in _runs(places):
            stored = self._bundle(bundle, spare)
            for name in names:
                parts[name].append(_widened(stored[name][rows]))
        return {name: torch.cat(found) for name, found in parts.items()}

    def _bundle(self, digest: str, spare: list[str]) -> dict[str, Tensor]:
        """A bundle, which is kept where it fits; the `spare` ones give way to it."""
        if digest in self._bundles:
            return self._bundles[digest]
        found = load_bundle(self.storage, digest)
        size = _bytes(found)
        while spare and self.held_bytes + size > self.max_bytes:
            self.held_bytes -= _bytes(self._bundles.pop(spare.pop()))
        if self.held_bytes + size <= self.max_bytes:
            self.held_bytes += size
            self._bundles[digest] = found
        return found


def _runs(places: Sequence[Place]) -> list[tuple[str, list[int]]]:
    """Neighbours in one bundle, together."""
    runs: list[tuple[str, list[int]]] = []
    for place in places:
        if not runs or runs[-1][0] != place.bundle:
            runs.append((place.bundle, []))
        runs[-1][1].append(place.row)
    return runs


def _bytes(bundle: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in bundle.values())


def _widened(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
