"""Bundles: the tensors of a wave in one safetensors file, named by the sha256 of its bytes.

Here are their bytes, and which of them are referenced; `tensors` saves and loads them.
"""

import json
import re
import struct
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from scen.errors import IntegrityError, NotFoundError
from scen.fs import Storage, StoredFile
from scen.ledger.events import LedgerEntry
from scen.ledger.ledger import Ledger
from scen.records import digest_bytes

_FOLDER, _SUFFIX = "bundles/", ".safetensors"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_bundle(storage: Storage, digest: str) -> bytes:
    """The checked bytes of a bundle. Raises as `load_bundle` does."""
    path = bundle_path(digest)
    try:
        data = storage.read(path)
    except NotFoundError as err:
        raise NotFoundError(
            f"bundle {digest[:12]} is missing ({storage.child_uri(path)}): where `scen gc` deleted "
            "it, ask a newer version; else restore the file from a backup, or run the wave that "
            "made it again in a new store"
        ) from err
    found = digest_bytes(data)
    if found != digest:
        raise IntegrityError(
            f"bundle {digest[:12]} is damaged ({storage.child_uri(path)} has sha256 "
            f"{found[:12]}...): restore the file from a backup"
        )
    return data


def count_rows(data: bytes) -> int:
    """How many rows all tensors of a bundle have, from its header alone. Raises IntegrityError
    where it has none or they differ."""
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    counts = {value["shape"][0] for name, value in header.items() if name != "__metadata__"}
    if len(counts) != 1:
        raise IntegrityError(f"bundle: its tensors have {sorted(counts)} rows, not one number")
    return int(counts.pop())


def bundle_path(digest: str) -> str:
    """Where a bundle lies in its store. Raises IntegrityError for what is no digest."""
    if not _DIGEST.fullmatch(digest):
        raise IntegrityError(f"bundle: {digest!r} is not a sha256 in hex")
    return f"bundles/{digest}.safetensors"


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
