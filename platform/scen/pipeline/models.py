"""Mirror a ledger in MLflow's model registry: versions, held waves, aliases.

The ledger is the source of truth and is only read. Missing records are created and manual changes
are reverted, so syncing is idempotent. Versions that carry an alias are pinned in the store, so
that `scen gc` keeps their bundles.
"""

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from scen.fs import Storage
from scen.ledger.ledger import Ledger, open_ledger
from scen.ledger.manifest import HeldWave, SnapshotPointer, bank_rows, point_at, store_id
from scen.ledger.markers import pin, unpin
from scen.ledger.state import Snapshot
from scen.ledger.view import LogEntry
from scen.pipeline.admit import admit
from scen.pipeline.gate import Candidate, candidates
from scen.pipeline.plan import Journal
from scen.records import digest_bytes
from scen.tracking.models import (
    ALIASES,
    STORE_ID_TAG,
    STORE_TAG,
    ModelRecord,
    ModelRegistry,
    RegisteredVersion,
)


def committed_record(
    storage: Storage, ledger: Ledger, snapshot: Snapshot, entry: LogEntry | None
) -> ModelRecord:
    """The record of a ledger version; `entry` is its commit, None for a store without edits."""
    pointer = point_at(storage.uri, ledger.manifest, snapshot)
    tags = {"scen.edits": str(len(snapshot.entries))}
    summary, run = "a store without edits", None
    if entry is not None:
        tags |= {"scen.action": entry.action, "scen.stream": entry.stream[:1000]}
        summary = (
            f"{entry.action} by {entry.who}, {entry.committed_at.isoformat(timespec='seconds')}"
        )
        summary += f": {entry.why[:1000]}" if entry.why else ""
        run = (entry.stream, entry.wave_key) if entry.wave_key else None
    return ModelRecord(
        version=snapshot.version,
        wave=None,
        name=f"version-{snapshot.version:04d}",
        description=f"Version {snapshot.version} of the ledger, {len(snapshot.entries)} edits: "
        f"{summary}.",
        tags=tags,
        code=_code(),
        pointer=pointer.to_dict(),
        places=_places(pointer),
        run=run,
    )


def held_record(
    storage: Storage, ledger: Ledger, snapshot: Snapshot, candidate: Candidate
) -> ModelRecord:
    """The record of a version with a held wave applied, which replaces all edits it contradicts."""
    wave = candidate.wave
    bundle = Journal(storage, wave.key).read("trained")["bundle"]
    replaces = tuple(admit(wave.edits, snapshot, "supersede").replaces)
    held = HeldWave(wave.key, bundle, tuple(edit.id for edit in wave.edits), replaces)
    pointer = point_at(storage.uri, ledger.manifest, snapshot, held)
    num_edits = len(bank_rows(snapshot, held))
    return ModelRecord(
        version=snapshot.version,
        wave=wave.key,
        name=f"held-{wave.key.replace('.', '-')}",
        description=f"Wave {wave.key} on top of version {snapshot.version}, {num_edits} edits. The "
        f"gate holds it since {candidate.held_at}: {'; '.join(candidate.reasons)}.",
        tags={"scen.edits": str(num_edits), "scen.action": "held", "scen.stream": wave.stream},
        code=_code(),
        pointer=pointer.to_dict(),
        places=_places(pointer),
    )


def _places(pointer: SnapshotPointer) -> dict[str, str]:
    """Defaults that can be overridden when the model is loaded."""
    return {"store": pointer.store, "base": pointer.base["name"], "device": "auto"}


def _code() -> Path:
    return Path(str(files("scen.tracking"))) / "logged_model.py"


log = logging.getLogger(__name__)
TRIES = 8


@dataclass(frozen=True)
class SyncReport:
    """The result of a sync with the ledger at `version`: the registered model `model`, the model
    versions it has `made`, and the `aliases`."""

    model: str
    version: int
    made: Sequence[RegisteredVersion]
    aliases: Mapping[str, RegisteredVersion]


def sync_models(
    storage: Storage,
    tracking_uri: str,
    name: str | None = None,
    versions: Collection[int] = (),
    say: Callable[[str], None] = lambda _: None,
) -> SyncReport:
    """Register the newest version of a ledger, `versions`, and the most recently held wave, unless
    they are registered; then set the aliases.

    Versions with experts deleted by `scen gc` are skipped. Raises ConfigError and ScenError as
    `ModelRegistry` does, NotFoundError for an unknown store or version.
    """
    ledger = open_ledger(storage)
    base = ledger.manifest.base
    tags = {
        STORE_TAG: storage.uri,
        STORE_ID_TAG: store_id(ledger.manifest),
        "scen.base": str(base["name"]),
        "scen.fingerprint": str(base["fingerprint"]),
    }
    models = ModelRegistry(tracking_uri, tags, name)
    made: list[RegisteredVersion] = []
    for _ in range(TRIES):
        step = _Sync(storage, ledger, models, say)
        made += step.register(versions)
        aliases = step.set_aliases()
        if ledger.version() == step.newest.version:
            break  # else there are newer commits, whose aliases this may have overwritten
    return SyncReport(models.name, step.newest.version, made, aliases)


def follow_ledger(storage: Storage, tracking_uri: str, versions: Collection[int]) -> str | None:
    """`sync_models` after a run that committed these versions; returns the name of the registered
    model. A failure is logged as a warning and returns None; the next sync catches up."""
    try:
        return sync_models(storage, tracking_uri, versions=versions).model
    except Exception as err:  # a registry failure must not fail committed waves
        log.warning("the new versions are committed but not registered in MLflow yet (%s)", err)
        return None


@dataclass
class _Sync:
    """One pass of a sync, on the state of the ledger and MLflow at its start."""

    storage: Storage
    ledger: Ledger
    models: ModelRegistry
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.newest = self.ledger.snapshot()
        self._known = {(v.version, v.wave): v for v in self.models.versions()}

    def register(self, versions: Collection[int]) -> list[RegisteredVersion]:
        """Register what is missing, oldest first; returns the new model versions."""
        wanted = sorted({*versions, self.newest.version})
        made = []
        for version in wanted:
            if (version, None) in self._known:
                continue
            if self._is_whole(version):
                made.append(self._register(version))
            else:
                self.say(f"version {version} is skipped: `scen gc` has deleted experts of it")
        if self._held is not None and self._of_wave(self._held.wave.key) is None:
            made.append(self._add(held_record(self.storage, self.ledger, self.newest, self._held)))
        return made

    def set_aliases(self) -> dict[str, RegisteredVersion]:
        """Set the aliases that differ and pin their versions; returns all aliases."""
        wanted = self._wanted()
        # Pin before an alias is set; champion last, since its old version becomes `previous`.
        for alias, registered in reversed(wanted.items()):
            pin(self.storage, self._owner(alias), registered.version)
        current = self.models.aliases()
        for alias in ALIASES:
            number = wanted[alias].number if alias in wanted else None
            if current.get(alias) != number:
                self.models.set_alias(alias, number)
                before = current.get(alias, "none")
                self.say(f"{alias}: model version {number or 'none'} (it was {before})")
            if number is None:
                unpin(self.storage, self._owner(alias))
        return wanted

    def _wanted(self) -> dict[str, RegisteredVersion]:
        aliases = {"champion": self._known[self.newest.version, None]}
        older = [v for v, wave in self._known if wave is None and v < self.newest.version]
        before = next((v for v in sorted(older, reverse=True) if self._is_whole(v)), None)
        if before is not None:
            aliases["previous"] = self._known[before, None]
        held = None if self._held is None else self._of_wave(self._held.wave.key)
        return aliases if held is None else aliases | {"candidate": held}

    def _register(self, version: int) -> RegisteredVersion:
        snapshot = self._history.snapshot(version)
        record = committed_record(self.storage, self.ledger, snapshot, self._log.get(version))
        return self._add(record)

    def _add(self, record: ModelRecord) -> RegisteredVersion:
        made = self.models.add(record)
        self._known[made.version, made.wave] = made
        what = f"version {made.version}" if made.wave is None else f"held wave {made.wave}"
        self.say(f"{what} is model version {made.number}")
        return made

    def _of_wave(self, key: str) -> RegisteredVersion | None:
        return next((v for v in self._known.values() if v.wave == key), None)

    def _is_whole(self, version: int) -> bool:
        """False if experts of a version were deleted by `scen gc`."""
        if not self._dropped or version == self.newest.version:
            return True
        return self._dropped.isdisjoint(self.ledger.snapshot(version).ids)

    @cached_property
    def _held(self) -> Candidate | None:
        """The most recently held wave."""
        held = candidates(self.storage, self.ledger)
        return max(held, key=lambda c: (c.held_at, c.wave.key), default=None)

    @cached_property
    def _dropped(self) -> set[str]:
        return {name for name, gone in self.newest.state.gone.items() if gone.is_dropped}

    @cached_property
    def _history(self) -> Ledger:
        """A ledger for reading versions in order: each read continues from the last."""
        return open_ledger(self.storage)

    @cached_property
    def _log(self) -> dict[int, LogEntry]:
        return {entry.version: entry for entry in self.ledger.log()}

    def _owner(self, alias: str) -> str:
        """The owner of a pin: an alias of this model on this MLflow server."""
        name, uri = self.models.name, self.models.tracking_uri.rstrip("/")
        plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:64]
        return f"mlflow-{plain}-{digest_bytes(f'{uri} {name}'.encode())[:8]}-{alias}"
