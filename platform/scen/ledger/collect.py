"""Garbage collection: deletes what no retained version and no unfinished wave references.

The deletion is committed to the ledger first, so that no rollback can restore those experts; then
the files are deleted. After a crash between the two steps, run it again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from scen.errors import ConfigError
from scen.fs import Storage, StoredFile
from scen.ledger.actions import About, Drop
from scen.ledger.bundles import (
    bundle_path,
    edits_by_bundle,
    orphan_bundles,
    spare_checkpoints,
    stored_bundles,
    stray_files,
)
from scen.ledger.events import Activated, Committed, Restored, Scheduled
from scen.ledger.ledger import Ledger
from scen.ledger.markers import leased_versions, read_pins, read_policy


@dataclass(frozen=True, slots=True)
class Keep:
    """What is retained: the newest version, all that were the newest at any time since `since`,
    these `versions`, and those in use (see `used_versions`). Unreferenced files are retained if
    written after `orphans_until`, since a writer may be about to reference them."""

    since: datetime
    orphans_until: datetime
    versions: frozenset[int] = frozenset()

    @classmethod
    def for_days(cls, now: datetime, days: float, versions: Iterable[int] = ()) -> "Keep":
        """The versions of the last days; orphans of the last day."""
        return cls(now - timedelta(days=days), now - timedelta(days=1), frozenset(versions))


@dataclass(frozen=True)
class Plan:
    """`edit_ids` are the edits whose experts are deleted with the `files`, so that they can no
    longer be restored. `kept` are the versions that can still be asked and rolled back to; the
    edits of every version can still be read."""

    kept: tuple[int, ...]
    edit_ids: tuple[str, ...]
    files: tuple[StoredFile, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the files."""
        return sum(file.size for file in self.files)


def plan_collection(storage: Storage, ledger: Ledger, keep: Keep) -> Plan:
    """Plan what to delete. Raises ConfigError for an unknown version to keep, IntegrityError if the
    log or the serving policy is damaged."""
    kept = kept_versions(storage, ledger, keep)
    needed = referenced_at(ledger, kept)
    stored = stored_bundles(storage)
    edits: list[str] = []
    files: list[StoredFile] = []
    for digest, entries in edits_by_bundle(ledger).items():
        if digest in stored and not any(entry.edit_id in needed for entry in entries):
            edits += [entry.edit_id for entry in entries]
            files.append(stored[digest])
    spared = _bundle_paths(ledger, needed)  # recorded as deleted, but still in use
    orphans = [file for file in orphan_bundles(storage, ledger) if file.path not in spared]
    orphans += stray_files(storage)
    files += [file for file in orphans if file.written_at < keep.orphans_until]
    files += spare_checkpoints(storage, kept)
    return Plan(tuple(sorted(kept)), tuple(edits), tuple(files))


def collect(storage: Storage, ledger: Ledger, plan: Plan, about: About) -> int:
    """Carry out a plan; returns the newest version. Bundles of versions that were leased, pinned or
    activated since the plan was made are spared. Raises ConfigError if an edit of the plan has
    been activated or restored since; nothing is deleted then."""
    version = ledger.version()
    if plan.edit_ids:
        version = ledger.settle(Drop(plan.edit_ids, about)).version
    # Leases taken after this line see the deletion in the ledger (`require_experts`).
    spared = _bundle_paths(ledger, referenced_at(ledger, used_versions(storage)))
    for file in plan.files:
        if file.path not in spared:
            storage.delete(file.path)
    return version


def _bundle_paths(ledger: Ledger, edit_ids: Iterable[str]) -> set[str]:
    entries = ledger.snapshot().state.entries
    return {bundle_path(entries[edit_id].bundle) for edit_id in edit_ids}


def kept_versions(storage: Storage, ledger: Ledger, keep: Keep) -> set[int]:
    """The versions to retain. Raises ConfigError for one that the ledger does not have."""
    newest, log = ledger.version(), ledger.log()
    unknown = sorted(version for version in keep.versions if not 0 <= version <= newest)
    if unknown:
        raise ConfigError(f"--keep-version: {unknown} are not among 0 to {newest}")
    used = {version for version in used_versions(storage) if version <= newest}
    recent = {entry.version for entry in log if entry.committed_at >= keep.since}
    before = [entry.version for entry in log if entry.committed_at < keep.since]
    return {newest, *keep.versions, *used, *recent, max(before, default=0)}


def used_versions(storage: Storage) -> set[int]:
    """The versions that are pinned, named by the serving policy, or leased by a server now. Raises
    IntegrityError where the policy is damaged."""
    pinned = read_pins(storage).values()
    served = leased_versions(storage, datetime.now(UTC))
    return {*pinned, *read_policy(storage).versions, *served}


def referenced_at(ledger: Ledger, versions: set[int]) -> set[str]:
    """The ids of all edits that are active or scheduled at one of these versions, or now."""
    live: set[str] = set()
    referenced: set[str] = set()
    at = 0
    for event in ledger.events():
        if event.version != at:
            referenced |= live if at in versions else set()
            at = event.version
        if isinstance(event, Committed | Scheduled | Activated | Restored):
            live.add(event.edit_id)
        else:
            live.discard(event.edit_id)
    return referenced | live
