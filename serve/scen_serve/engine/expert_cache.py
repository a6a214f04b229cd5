"""Experts where they are needed: a few on the device, more in memory, all in the store's bundles.

Only `HostExpertCache` reads from the store, on a thread of its own.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.fs import Storage
from scen.ledger.tensors import load_bundle
from scen.model.expert import FullBank, LowRankBank
from scen.snapshot.load import Place

Bundle = dict[str, Tensor]


class HostExpertCache:
    """Bundles in memory, least recently used out first; `max_bytes` bounds all but one."""

    def __init__(self, storage: Storage, names: tuple[str, ...], max_bytes: int) -> None:
        self._storage = storage
        self._names = names
        self._max_bytes = max_bytes
        self._bundles: OrderedDict[str, Bundle] = OrderedDict()
        self._reading: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, "scen-experts")

    @property
    def num_bytes(self) -> int:
        """Of the bundles that are held."""
        with self._lock:
            return sum(_bytes(bundle) for bundle in self._bundles.values())

    def find(self, place: Place) -> Bundle | None:
        """The expert's tensors, where they are in memory."""
        with self._lock:
            if place.bundle not in self._bundles:
                return None
            self._bundles.move_to_end(place.bundle)
            return {n: t[place.row] for n, t in self._bundles[place.bundle].items()}

    def prefetch(self, place: Place) -> "Future[None]":
        """Read the expert's bundle behind the scenes.

        The future raises IntegrityError or NotFoundError where the bundle is damaged or missing.
        """
        with self._lock:
            if place.bundle not in self._reading:
                self._reading[place.bundle] = self._reader.submit(self._fetch, place.bundle)
            return self._reading[place.bundle]

    def read(self, digest: str) -> Bundle:
        """All tensors of a bundle from the store, checked; its experts are kept in memory."""
        found = load_bundle(self._storage, digest)
        experts = {name: found[name] for name in self._names}
        with self._lock:
            self._bundles[digest] = experts
            total = sum(_bytes(bundle) for bundle in self._bundles.values())
            while total > self._max_bytes and len(self._bundles) > 1:
                total -= _bytes(self._bundles.popitem(last=False)[1])
        return found

    def close(self) -> None:
        """End the thread that reads."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, digest: str) -> None:
        try:
            self.read(digest)
        finally:
            with self._lock:
                del self._reading[digest]


@dataclass(slots=True)
class CacheCounts:
    """What became of the experts that were asked for."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0


class ExpertCache:
    """The experts on the device: slots of one bank, shared by all rows and all versions.

    An expert that a row uses is pinned. Not thread-safe: it belongs to the engine's thread.
    """

    def __init__(self, bank: LowRankBank | FullBank, host: HostExpertCache) -> None:
        self.bank = bank
        self.host = host
        self.counts = CacheCounts()
        self._slots: OrderedDict[Place, int] = OrderedDict()  # least recently used first
        self._pins: dict[int, int] = {}
        self._free = list(range(len(bank)))

    def acquire(self, place: Place) -> int | None:
        """A slot with this expert, pinned; None where it is not in memory or all are pinned. Raises
        what copying it did, such as for an expert of another size."""
        slot = self._slots.get(place)
        if slot is None:
            expert = self.host.find(place)
            slot = None if expert is None else self._free_slot()
            if expert is None or slot is None:
                return None
            try:
                for name, tensor in self.bank.tensors().items():
                    tensor[slot].copy_(expert[name])
            except Exception:
                self._free.append(slot)
                raise
            self._slots[place] = slot
            self.counts.misses += 1
        else:
            self.counts.hits += 1
        self._slots.move_to_end(place)
        self._pins[slot] = self._pins.get(slot, 0) + 1
        return slot

    def release(self, slot: int) -> None:
        """One row less uses this slot; the expert stays until the room is needed."""
        self._pins[slot] -= 1
        if self._pins[slot] == 0:
            del self._pins[slot]

    @property
    def num_pinned(self) -> int:
        """Slots that rows use now."""
        return len(self._pins)

    def _free_slot(self) -> int | None:
        if self._free:
            return self._free.pop()
        for place, slot in self._slots.items():
            if slot not in self._pins:
                del self._slots[place]
                self.counts.evictions += 1
                return slot
        return None


def empty_bank(config: Any, rank: int, slots: int, device: torch.device) -> LowRankBank | FullBank:
    """A bank of `slots` experts of zeros, float32, for the base of this configuration; rank 0 is
    a bank of whole matrices (method `scen`)."""
    wide, narrow = config.intermediate_size, config.hidden_size
    if rank == 0:
        return FullBank(torch.zeros(slots, narrow, wide, device=device))
    return LowRankBank(
        torch.zeros(slots, rank, wide, device=device),
        torch.zeros(slots, narrow, rank, device=device),
    )


def _bytes(bundle: Bundle) -> int:
    return sum(tensor.nbytes for tensor in bundle.values())
