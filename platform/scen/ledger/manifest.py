"""`store.json`: the base and the method that a store is bound to, written once."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from scen.errors import BaseError, ConfigError, IntegrityError, NotFoundError
from scen.fs import Storage

MANIFEST_PATH = "store.json"
FORMAT = 2


@dataclass(frozen=True)
class StoreManifest:
    """`base` holds at least `name`, `fingerprint`, `template` and `dtype`; `method` what all waves
    share; `artifacts` bundle digests by name."""

    base: Mapping[str, Any]
    method: Mapping[str, Any]
    artifacts: Mapping[str, str] = field(default_factory=dict)
    created_at: str = ""
    format: int = FORMAT

    @classmethod
    def new(
        cls, base: Mapping[str, Any], method: Mapping[str, Any], artifacts: Mapping[str, str]
    ) -> "StoreManifest":
        """The manifest of a store that is made now."""
        return cls(base, method, artifacts, datetime.now(UTC).isoformat(timespec="seconds"))

    def require_base(self, base: Mapping[str, Any]) -> None:
        """Raises BaseError where another base is meant."""
        if base["fingerprint"] != self.base["fingerprint"]:
            raise BaseError(
                f"base: this store belongs to {_name(self.base)}, not to {_name(base)}. "
                "Use that base with its template, or another --store"
            )

    def require_method(self, method: Mapping[str, Any]) -> None:
        """Raises ConfigError where other settings of the method are meant; what `method` leaves
        out is the store's own."""
        stored, meant = _as_json(self.method), _as_json(method)
        changed = [n for n in sorted(meant) if stored.get(n) != meant[n]]
        if changed:
            facts = "; ".join(f"{n} is {stored.get(n)!r}, not {meant.get(n)!r}" for n in changed)
            raise ConfigError(
                f"method: in this store {facts}. Keep its settings, or use another --store"
            )


def write_manifest(storage: Storage, manifest: StoreManifest) -> StoreManifest:
    """The store's manifest: this one in a new store, else the one that is there."""
    storage.put_json(MANIFEST_PATH, asdict(manifest))
    return read_manifest(storage)


def read_manifest(storage: Storage) -> StoreManifest:
    """The store's manifest. Raises NotFoundError where there is none, IntegrityError where it is
    damaged or of another release."""
    place = storage.child_uri(MANIFEST_PATH)
    try:
        found = storage.read_json(MANIFEST_PATH)
        manifest = StoreManifest(**found)
    except (ValueError, TypeError) as err:
        raise IntegrityError(
            f"{place} is damaged or of another release ({err}): restore the file from a backup, "
            "or use another --store"
        ) from err
    if manifest.format != FORMAT:
        raise IntegrityError(
            f"{place}: format {manifest.format!r} is not {FORMAT}; this store was made by another "
            "release of scen-platform"
        )
    return manifest


def stored_method(storage: Storage) -> str | None:
    """The method of a store that exists, so that it need not be named again; else None."""
    try:
        return str(read_manifest(storage).method["method"])
    except NotFoundError:
        return None


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    # What is stored went through JSON, where a tuple becomes a list.
    parsed: dict[str, Any] = json.loads(json.dumps(value))
    return parsed


def _name(base: Mapping[str, Any]) -> str:
    return f"{base['name']} ({base['template']}, fingerprint {str(base['fingerprint'])[:12]})"
