"""The neurons of all versions that a server reads, in one bank: what a new version costs is what is
new in it."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scen.registry.entry import LedgerEntry
from scen.registry.snapshot import Snapshot
from scen.routing.key_bank import UNIT, Codes
from scen.routing.neurons import KeyNeurons, NeuronBuffer
from scen.routing.router import Router

ReadKeys = Callable[[str], tuple[Tensor, Sequence[str] | None]]
"""key_EKF of a bundle, by its digest, and the prompts of its edits as they are routed (None where
the router does not compare words); raises IntegrityError or NotFoundError."""


class NeuronRows:
    """Knows the row of each edit by its id, which is one edit's for ever.

    New edits are appended; edits that a version does not have are hidden from it. A version whose
    order is not that of the bank (an edit that was unknown has come back), or from which more rows
    are hidden than it shows, gets a bank of its own, copied out of the old one; later versions go
    on with that. Not thread-safe.
    """

    def __init__(self, router: Router, read_keys: ReadKeys) -> None:
        self._read_keys = read_keys
        self._bank = NeuronBuffer(router)
        self._row: dict[str, int] = {}
        self._newest = -1  # the newest version that was read

    def neurons(self, snapshot: Snapshot) -> KeyNeurons:
        """Those of a version, in the order of its edits. Raises what reading a bundle does, and
        ConfigError where a key is not finite; the next call begins where this one began."""
        self._append([entry for entry in snapshot.entries if entry.edit_id not in self._row])
        row_E = torch.tensor([self._row[edit_id] for edit_id in snapshot.ids], dtype=torch.int64)
        if not self._suits(row_E):
            bank = self._bank.picked(row_E)
            row_E = torch.arange(len(bank))
            if snapshot.version < self._newest:  # asked for by number
                return KeyNeurons.of_rows(bank, row_E)
            self._bank = bank
            self._row = dict(zip(snapshot.ids, range(len(bank)), strict=True))
        self._newest = max(self._newest, snapshot.version)
        return KeyNeurons.of_rows(self._bank, row_E)

    def _suits(self, row_E: Tensor) -> bool:
        """True where the bank serves a version with these rows."""
        hidden = len(self._bank) - len(row_E)
        return hidden <= max(UNIT, len(row_E)) and bool((row_E.diff() > 0).all())

    def _append(self, entries: Sequence[LedgerEntry]) -> None:
        """Add edits to the bank, one bundle after the other."""
        encoder = self._bank.router.encoder
        for digest, group in itertools.groupby(entries, key=lambda entry: entry.bundle):
            run = list(group)
            key_EKF, texts = self._read_keys(digest)
            rows = [entry.row for entry in run]
            some = None if texts is None else [texts[row] for row in rows]
            added = self._bank.append(Codes.of(encoder(key_EKF[rows]), encoder.widths), some)
            self._row.update(zip((entry.edit_id for entry in run), added, strict=True))
