"""Pairs of a store's edits whose prompts the router confuses; needs the store alone, no base."""

from collections.abc import Callable
from dataclasses import dataclass

from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.ledger.state import Snapshot
from scen.model.surface import bare_form
from scen.routing.explain import Collision, find_collisions
from scen.routing.neurons import KeyNeurons
from scen.snapshot.load import BundleRows, Place
from scen.snapshot.open import stored_router


@dataclass(frozen=True)
class StoreCollisions:
    """The pairs of a version, the worst first; `threshold` is the router's."""

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
    or less than `margin` below it, `limit` at most. `progress` is given how many more are done, and
    of how many. Raises ConfigError for a store of method scen, and for a margin that is wrong."""
    ledger = open_ledger(storage)
    router = stored_router(storage, ledger)
    if router is None:
        raise ConfigError(
            "--store: neurons of method scen have no near misses, so they cannot be compared; "
            "collisions are found in stores of method scen-lr"
        )
    snapshot = ledger.snapshot(version)
    places = [Place(entry.bundle, entry.row) for entry in snapshot.entries]
    pairs: list[Collision] = []
    if len(places) > 1:
        texts = [bare_form(entry.edit.prompt) for entry in snapshot.entries]
        key_EKF = BundleRows(storage).read(places, ("key",))["key"]
        neurons = KeyNeurons.build(router, key_EKF, texts)
        pairs = find_collisions(
            neurons, margin, limit, progress=lambda done: progress(done, len(places))
        )
    return StoreCollisions(snapshot, router.threshold, pairs)
