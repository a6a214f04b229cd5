"""Pairs of edits that the router may confuse, in a wave and in a store.

Near-duplicates are found before training, from the router's own keys of the prompts.

Suffixes: N new edits, E all edits they are compared with, K places, F features of a raw key.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.events import LedgerEntry
from scen.ledger.ledger import open_ledger
from scen.ledger.state import Snapshot
from scen.model.surface import bare_form
from scen.pipeline.admit import Admission, Clash
from scen.records import Edit
from scen.routing.explain import Collision, find_collisions
from scen.routing.key_bank import Codes
from scen.routing.keys import KeyEncoder
from scen.routing.neurons import CANDIDATES, Choice, KeyNeurons
from scen.snapshot.load import BundleRows, Place
from scen.snapshot.open import OpenStore, stored_router


@dataclass(frozen=True, slots=True)
class Near:
    """A new edit, and another one that the router also matches its prompt to: an active one, or an
    earlier one of the same wave. `score` is the routing score."""

    edit: Edit
    other_id: str
    score: float


class NearFinder:
    """Compares new edits with the active ones of a store and with each other. `read_keys` reads
    key_NKF of prompts (see `WaveParts`); nothing is trained."""

    def __init__(self, store: OpenStore, read_keys: Callable[[Sequence[str]], Tensor]) -> None:
        self._store, self._read_keys = store, read_keys
        self._keys: dict[str, Tensor] = {}  # of edits treated as if already committed

    def find(self, admission: Admission, snapshot: Snapshot) -> list[Near]:
        """The near-duplicates of the fresh edits of an admission, edit by edit, nearest first.
        Empty for stores of method scen, whose neurons cannot be compared."""
        router, fresh = self._store.loader_at(snapshot).router, admission.fresh
        if router is None or not fresh:
            return []
        key_NKF = self._read_keys([edit.prompt for edit in fresh])
        self._keys |= {edit.id: key_KF for edit, key_KF in zip(fresh, key_NKF, strict=True)}
        stay = [entry for entry in snapshot.entries if entry.edit_id not in admission.replaces]
        texts = [bare_form(edit.prompt) for edit in fresh]
        known = [bare_form(entry.edit.prompt) for entry in stay]
        encoder = router.encoder
        codes = [*self._read(stay, encoder), Codes.of(encoder(key_NKF.float()), encoder.widths)]
        neurons = KeyNeurons.of_codes(router, Codes.join(codes), [*known, *texts])
        # One more, since each edit matches itself.
        choice = neurons.choose(key_NKF.float(), CANDIDATES + 1, texts)
        ids = [*(entry.edit_id for entry in stay), *(edit.id for edit in fresh)]
        pairs = _pairs(choice, len(stay), router.threshold)
        return [Near(fresh[new - len(stay)], ids[other], score) for new, other, score in pairs]

    def _read(self, entries: Sequence[LedgerEntry], encoder: KeyEncoder) -> list[Codes]:
        """Compact keys in parts: stored edits, then those treated as if already committed."""
        places = [Place(entry.bundle, entry.row) for entry in entries if entry.bundle]
        stored = [self._store.loader.rows.codes(places, encoder)] if places else []
        fresh = [self._keys[entry.edit_id].float() for entry in entries if not entry.bundle]
        return stored + [Codes.of(encoder(key_KF[None]), encoder.widths) for key_KF in fresh]


def _pairs(choice: Choice, first: int, threshold: float) -> list[tuple[int, int, float]]:
    """Pairs of a new edit (from index `first` on) and an earlier one that score above `threshold`
    in either direction, with the score; sorted by new edit, then by descending score."""
    scores_by_pair: dict[tuple[int, int], float] = {}
    rows = zip(choice.index_BE.tolist(), choice.score_BE.tolist(), strict=True)
    for new, (others, scores) in enumerate(rows, first):
        for other, score in zip(others, scores, strict=True):
            if other >= 0 and other != new and score > threshold:
                pair = (max(new, other), min(new, other))
                scores_by_pair[pair] = max(score, scores_by_pair.get(pair, score))
    pairs = [(new, other, score) for (new, other), score in scores_by_pair.items()]
    return sorted(pairs, key=lambda pair: (pair[0], -pair[2], pair[1]))


def set_aside(admission: Admission, near: Sequence[Near]) -> Admission:
    """The admission without edits that are near-duplicates of a remaining one."""
    aside: dict[str, Clash] = {}
    for pair in near:
        if pair.other_id not in aside and pair.edit.id not in aside:
            aside[pair.edit.id] = _clash(pair)
    return replace(
        admission,
        fresh=tuple(edit for edit in admission.fresh if edit.id not in aside),
        rejections=(*admission.rejections, *aside.values()),
        supersedes={old: new for old, new in admission.supersedes.items() if new not in aside},
        succeeds={old: new for old, new in admission.succeeds.items() if new not in aside},
        remarked=tuple(r for r in admission.remarked if r.edit_id not in aside),
    )


def require_keys(store: OpenStore) -> None:
    """Raises ConfigError for a store without a router (method scen)."""
    if store.loader.router is None:
        raise ConfigError(
            "waves.on_collision: quarantine compares the keys of method scen-lr, and this store is "
            "of method scen; take report"
        )


def _clash(pair: Near) -> Clash:
    reason = (
        f"the router also matches the prompt of edit {pair.edit.id} to edit {pair.other_id} "
        f"(score {pair.score:.3g}): drop one of the two, or reword it"
    )
    return Clash(pair.edit, "prompt", reason)


@dataclass(frozen=True)
class StoreCollisions:
    """The colliding pairs of a version, worst first; `threshold` is the router's."""

    snapshot: Snapshot
    threshold: float
    pairs: list[Collision]


def store_collisions(
    storage: Storage,
    version: int | None,
    margin: float,
    limit: int | None,
    progress: Callable[[int, int], None],
) -> StoreCollisions:
    """Compare all edits of a version (None: the newest) with each other: pairs above the threshold,
    or less than `margin` below it, at most `limit`. `progress` is called with the number newly done
    and the total. Raises ConfigError for a store of method scen, and for an invalid margin."""
    ledger = open_ledger(storage)
    snapshot = ledger.snapshot(version)
    router = stored_router(storage, ledger, snapshot)
    if router is None:
        raise ConfigError(
            "--store: neurons of method scen have no near misses, so they cannot be compared; "
            "collisions are found in stores of method scen-lr"
        )
    places = [Place(entry.bundle, entry.row) for entry in snapshot.entries]
    pairs: list[Collision] = []
    if len(places) > 1:
        texts = [bare_form(entry.edit.prompt) for entry in snapshot.entries]
        codes = BundleRows(storage).codes(places, router.encoder)
        neurons = KeyNeurons.of_codes(router, codes, texts)
        pairs = find_collisions(
            neurons, margin, limit, progress=lambda done: progress(done, len(places))
        )
    return StoreCollisions(snapshot, router.threshold, pairs)
