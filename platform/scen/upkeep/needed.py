"""Which bundles of a store are needed, by whom, and which are not."""

from collections import defaultdict
from collections.abc import Mapping

from scen.fs import Storage, StoredFile
from scen.registry.entry import LedgerEntry
from scen.registry.ledger import Ledger

_FOLDER, _SUFFIX = "bundles/", ".safetensors"


def stored_bundles(storage: Storage) -> dict[str, StoredFile]:
    """The bundles that are there, by digest."""
    found = {f.path[len(_FOLDER) : -len(_SUFFIX)]: f for f in storage.files("bundles")}
    return {digest: file for digest, file in found.items() if file.path.endswith(_SUFFIX)}


def edits_by_bundle(ledger: Ledger) -> Mapping[str, list[LedgerEntry]]:
    """The edits whose experts lie in each bundle, active or not, less those whose expert was
    deleted on purpose."""
    state = ledger.snapshot().state
    found: dict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in state.entries.values():
        gone = state.gone.get(entry.edit_id)
        if gone is None or not gone.is_dropped:
            found[entry.bundle].append(entry)
    return found


def unfinished_bundles(storage: Storage, ledger: Ledger) -> set[str]:
    """The bundles of waves that are begun and neither committed nor rejected: a later run, or
    `scen promote`, goes on with them."""
    names = storage.names("waves")
    done = {entry.wave_key for entry in ledger.log()}
    done |= {name.split("/")[1] for name in names if name.endswith("/rejected.json")}
    found: set[str] = set()
    for name in names:
        _, key, *rest = name.split("/")
        is_trained = rest == ["trained.json"] or rest[:1] == ["parts"]
        if key not in done and is_trained and name.endswith(".json"):
            found.add(storage.read_json(name)["bundle"])
    return found


def orphan_bundles(storage: Storage, ledger: Ledger) -> list[StoredFile]:
    """The bundles that neither an edit of the ledger, nor the store's method, nor a wave on its way
    needs."""
    needed = {
        *edits_by_bundle(ledger),
        *ledger.manifest.artifacts.values(),
        *unfinished_bundles(storage, ledger),
    }
    stored = stored_bundles(storage)
    return [file for digest, file in stored.items() if digest not in needed]
