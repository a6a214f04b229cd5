"""`store.json`, which describes how a store was created, and pointers to versions of a store."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from scen.errors import BaseError, ConfigError, IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.state import Snapshot, State
from scen.records import digest_json

MANIFEST_PATH = "store.json"
FORMAT = 3
READABLE = (2, 3)
"""Stores of format 2 hold experts in float16 and raw keys, and go on doing so."""


@dataclass(frozen=True)
class StoreManifest:
    """`base` holds at least `name`, `fingerprint`, `template` and `dtype`, and as `profile` how the
    router was made; `method` the settings that all waves share; `artifacts` bundle digests by
    name."""

    base: Mapping[str, Any]
    method: Mapping[str, Any]
    artifacts: Mapping[str, str] = field(default_factory=dict)
    created_at: str = ""
    format: int = FORMAT

    @classmethod
    def new(
        cls, base: Mapping[str, Any], method: Mapping[str, Any], artifacts: Mapping[str, str]
    ) -> "StoreManifest":
        """The manifest of a new store."""
        return cls(base, method, artifacts, datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def profile(self) -> Mapping[str, Any]:
        """How the router that the store was created with was made: `how` is shipped, quick, full,
        store, file or none, with `made` (date), `edits` (their number), `bound` and `figures` where
        they are known; empty for method scen and for stores of earlier releases."""
        return dict(self.base.get("profile", {}))

    def artifacts_at(self, state: State) -> dict[str, str]:
        """The bundles that the models of a state are bound to, besides those of its edits."""
        current = {} if state.router is None else {"router": state.router}
        return dict(self.artifacts) | current

    def require_base(self, base: Mapping[str, Any]) -> None:
        """Raises BaseError if the store belongs to another base."""
        if base["fingerprint"] != self.base["fingerprint"]:
            raise BaseError(
                f"base: this store belongs to {_name(self.base)}, not to {_name(base)}. "
                "Use that base with its template, or another --store"
            )

    def require_method(self, method: Mapping[str, Any]) -> None:
        """Raises ConfigError if a setting differs from the store's; settings that `method` leaves
        out are not compared."""
        stored, meant = _as_json(self.method), _as_json(method)
        changed = [n for n in sorted(meant) if stored.get(n) != meant[n]]
        if changed:
            facts = "; ".join(f"{n} is {stored.get(n)!r}, not {meant.get(n)!r}" for n in changed)
            raise ConfigError(
                f"method: in this store {facts}. Keep its settings, or use another --store"
            )


def write_manifest(storage: Storage, manifest: StoreManifest) -> StoreManifest:
    """The store's manifest: this one, written to a new store, or else the existing one."""
    storage.put_json(MANIFEST_PATH, asdict(manifest))
    return read_manifest(storage)


def read_manifest(storage: Storage) -> StoreManifest:
    """The store's manifest. Raises NotFoundError if there is none, IntegrityError if it is
    damaged or of another release."""
    place = storage.child_uri(MANIFEST_PATH)
    try:
        manifest = StoreManifest(**storage.read_json(MANIFEST_PATH))
    except (ValueError, TypeError) as err:
        raise IntegrityError(
            f"{place} is damaged or of another release ({err}): restore the file from a backup, "
            "or use another --store"
        ) from err
    if manifest.format not in READABLE:
        raise IntegrityError(
            f"{place}: format {manifest.format!r} is none of {READABLE}; this store was made by "
            "another release of scen-platform"
        )
    return manifest


def stored_method(storage: Storage) -> str | None:
    """The method of an existing store; None if there is no store."""
    try:
        return str(read_manifest(storage).method["method"])
    except NotFoundError:
        return None


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    # The stored manifest went through JSON, which turns tuples into lists.
    parsed: dict[str, Any] = json.loads(json.dumps(value))
    return parsed


def _name(base: Mapping[str, Any]) -> str:
    return f"{base['name']} ({base['template']}, fingerprint {str(base['fingerprint'])[:12]})"


_BASE_FACTS = ("name", "fingerprint", "template", "dtype")


@dataclass(frozen=True, slots=True)
class HeldWave:
    """A trained wave that is not in the ledger: edit i of `edit_ids` is in row i of the bundle, and
    it would supersede the active edits `replaces`."""

    key: str
    bundle: str
    edit_ids: tuple[str, ...]
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BankRow:
    """The bundle and row of the expert and the neuron of one edit."""

    edit_id: str
    bundle: str
    row: int


@dataclass(frozen=True)
class SnapshotPointer:
    """A version of the store at `store` (a URI), with the wave `held` added if given.

    `base` has the name, fingerprint, template and dtype of the base; `digest` is a sha256 (hex)
    over the method, the router and all rows of the model, in their order."""

    store: str
    version: int
    base: Mapping[str, str]
    digest: str
    held: HeldWave | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "SnapshotPointer":
        """The pointer that `to_dict` wrote. Raises IntegrityError."""
        try:
            held = value["held"]
            wave = None if held is None else HeldWave(**{n: _frozen(v) for n, v in held.items()})
            return cls(**{**value, "held": wave})
        except (TypeError, KeyError, AttributeError) as err:
            raise IntegrityError(
                f"pointer: {value!r} is none of this release ({err}); register the version again"
            ) from err

    def require(self, manifest: StoreManifest, snapshot: Snapshot) -> None:
        """Raises IntegrityError if a store does not hold the model of the pointer."""
        if model_digest(manifest, snapshot, self.held) != self.digest:
            raise IntegrityError(
                f"store: version {self.version} has other edits, experts or another router than "
                f"the one that was registered at {self.store}; give that store, or a copy of it"
            )


def point_at(
    store: str, manifest: StoreManifest, snapshot: Snapshot, held: HeldWave | None = None
) -> SnapshotPointer:
    """The pointer to a version of the store at a URI, with the wave `held` added if given."""
    base = {name: str(manifest.base[name]) for name in _BASE_FACTS}
    digest = model_digest(manifest, snapshot, held)
    return SnapshotPointer(store, snapshot.version, base, digest, held)


def bank_rows(snapshot: Snapshot, held: HeldWave | None = None) -> list[BankRow]:
    """The rows of a model, in the order of its experts."""
    replaced = () if held is None else set(held.replaces)
    rows = [
        BankRow(entry.edit_id, entry.bundle, entry.row)
        for entry in snapshot.entries
        if entry.edit_id not in replaced
    ]
    if held is not None:
        known = {row.edit_id for row in rows}
        fresh = [(row, name) for row, name in enumerate(held.edit_ids) if name not in known]
        rows += [BankRow(name, held.bundle, row) for row, name in fresh]
    return rows


def model_digest(manifest: StoreManifest, snapshot: Snapshot, held: HeldWave | None) -> str:
    """sha256 (hex) of a model: equal for models that answer alike, wherever their stores are."""
    rows = [[row.edit_id, row.bundle, row.row] for row in bank_rows(snapshot, held)]
    method, artifacts = dict(manifest.method), manifest.artifacts_at(snapshot.state)
    return digest_json([manifest.base["fingerprint"], method, artifacts, rows])


def store_id(manifest: StoreManifest) -> str:
    """An id of the store that stays the same when it is moved or copied: 16 hex digits."""
    return digest_json(asdict(manifest))[:16]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
