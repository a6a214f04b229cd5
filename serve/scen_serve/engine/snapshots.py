"""Served versions of a store. Those with the same router share one bank of neurons, so that loading
a version costs only its new edits.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scen.ledger.events import LedgerEntry
from scen.ledger.state import Snapshot
from scen.model.route import NeuronBank, SigmoidNeurons
from scen.routing.key_bank import UNIT
from scen.routing.keys import unpack_texts
from scen.routing.neurons import KeyNeurons, NeuronBuffer, bundle_codes
from scen.routing.router import Router
from scen.snapshot.load import Place
from scen.snapshot.open import OpenStore
from scen_serve.engine.caches import Bundle, HostExpertCache

_BANKS = 2  # routers whose banks stay loaded: a rollback usually returns to the last one

ReadKeys = Callable[[str], tuple[Bundle, Sequence[str] | None]]
"""A bundle with raw or compact keys, by its digest, and the texts of its edits' prompts as routed
(None if the router does not compare words); raises IntegrityError or NotFoundError."""


class NeuronRows:
    """One bank of neurons of one router, with a row for each edit id; ids are never reused for
    another edit.

    New edits are appended; a version does not see rows of edits that it lacks. A version whose
    order differs from the bank's (a previously unknown edit was restored), or that hides more rows
    than it shows, gets a new bank copied from the old one, which later versions then use. Not
    thread-safe.
    """

    def __init__(self, router: Router, read_keys: ReadKeys) -> None:
        self._read_keys = read_keys
        self._bank = NeuronBuffer(router)
        self._row: dict[str, int] = {}
        self._newest = -1  # the newest version that was read

    def neurons(self, snapshot: Snapshot) -> KeyNeurons:
        """The neurons of a version, in the order of its edits. Raises what reading a bundle raises,
        and ConfigError if a key is not finite; the call can be retried."""
        self._append([entry for entry in snapshot.entries if entry.edit_id not in self._row])
        row_E = torch.tensor([self._row[edit_id] for edit_id in snapshot.ids], dtype=torch.int64)
        if not self._can_share(row_E):
            bank = self._bank.picked(row_E)
            row_E = torch.arange(len(bank))
            if snapshot.version < self._newest:  # an older version, requested by number
                return KeyNeurons.of_rows(bank, row_E)
            self._bank = bank
            self._row = dict(zip(snapshot.ids, range(len(bank)), strict=True))
        self._newest = max(self._newest, snapshot.version)
        return KeyNeurons.of_rows(self._bank, row_E)

    def _can_share(self, row_E: Tensor) -> bool:
        """True if a version with these rows can use the shared bank."""
        hidden = len(self._bank) - len(row_E)
        return hidden <= max(UNIT, len(row_E)) and bool((row_E.diff() > 0).all())

    def _append(self, entries: Sequence[LedgerEntry]) -> None:
        """Append edits to the bank, bundle by bundle."""
        encoder = self._bank.router.encoder
        for digest, group in itertools.groupby(entries, key=lambda entry: entry.bundle):
            run = list(group)
            bundle, texts = self._read_keys(digest)
            rows = [entry.row for entry in run]
            row_texts = None if texts is None else [texts[row] for row in rows]
            added = self._bank.append(bundle_codes(bundle, rows, encoder), row_texts)
            self._row.update(zip((entry.edit_id for entry in run), added, strict=True))


@dataclass(frozen=True)
class ServedSnapshot:
    """One version: immutable, shared by all requests that run on it."""

    version: int
    edit_ids: tuple[str, ...]
    places: tuple[Place, ...]
    neurons: NeuronBank

    def span(self, edit_id: str) -> str | None:
        """The text of an edit's prompt with which spans of messages are compared; None if the
        router does not compare words."""
        if not isinstance(self.neurons, KeyNeurons):
            return None
        return self.neurons.text(self.edit_ids.index(edit_id)) or None


class SnapshotReader:
    """Reads versions of a store, and the keys of each edit only once. Slow: not for the engine's
    thread.

    With method `scen-lr`, versions with the same router share one bank of keys to which new edits
    are appended.
    """

    def __init__(self, store: OpenStore, host: HostExpertCache) -> None:
        self._store = store
        self._host = host
        self._places: dict[str, Place] = {}  # by edit id
        self._neurons: dict[str, Tensor] = {}
        self._rows: OrderedDict[str | None, NeuronRows] = OrderedDict()  # by router

    def newest(self) -> int:
        """The newest version of the ledger."""
        return self._store.ledger.version()

    def read(self, version: int | None = None) -> ServedSnapshot:
        """A version (None: the newest). Raises NotFoundError if it or a bundle is missing or was
        deleted by `scen gc`, IntegrityError if a bundle is damaged."""
        snapshot = self._store.ledger.snapshot(version)
        places = self._find_places(snapshot)
        rows = self._rows_at(snapshot)
        neurons = rows.neurons(snapshot) if rows else self._sigmoid(places)
        self._store.ledger.require_experts(snapshot)
        return ServedSnapshot(snapshot.version, tuple(snapshot.ids), places, neurons)

    def _rows_at(self, snapshot: Snapshot) -> NeuronRows | None:
        """The bank of the router of a version; None with method scen. Banks of other routers are
        dropped, the least recently used first."""
        loader, name = self._store.loader_at(snapshot), snapshot.state.router
        if loader.router is None:
            return None
        if name not in self._rows:
            read_keys = partial(self._read_keys, has_texts=loader.reads_words)
            self._rows[name] = NeuronRows(loader.router, read_keys)
        self._rows.move_to_end(name)
        if len(self._rows) > _BANKS:
            self._rows.popitem(last=False)
        return self._rows[name]

    def _find_places(self, snapshot: Snapshot) -> tuple[Place, ...]:
        """The places of all edits; versions share the objects."""
        for entry in snapshot.entries:
            if entry.edit_id not in self._places:
                self._places[entry.edit_id] = Place(entry.bundle, entry.row)
        return tuple([self._places[edit_id] for edit_id in snapshot.ids])

    def _sigmoid(self, places: Sequence[Place]) -> SigmoidNeurons:
        store = self._store
        assert store.method.theta is not None
        for digest in {place.bundle for place in places} - self._neurons.keys():
            self._neurons[digest] = self._host.read(digest)["neuron"].float()
        empty = torch.zeros(0, store.base.config.intermediate_size)
        rows = [self._neurons[digest][rows] for digest, rows in _runs(places)]
        weight_EF = torch.cat([empty, *rows])
        return SigmoidNeurons(
            store.method.layer, weight_EF.to(store.base.device), store.method.theta
        )

    def _read_keys(self, digest: str, *, has_texts: bool) -> tuple[Bundle, Sequence[str] | None]:
        bundle = self._host.read(digest)
        return bundle, unpack_texts(bundle["text"]) if has_texts else None


def _runs(places: Sequence[Place]) -> list[tuple[str, list[int]]]:
    """Rows of consecutive places in the same bundle, grouped."""
    runs = itertools.groupby(places, key=lambda place: place.bundle)
    return [(digest, [place.row for place in run]) for digest, run in runs]
