"""Garbage collection: deletes what no retained version and no unfinished wave references.

The deletion is committed to the ledger first, so that nobody rolls back to those experts; then the
files are deleted. After a crash between the two, run it again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from scen.errors import ConfigError
from scen.fs import Storage, StoredFile
from scen.ledger.actions import About, Drop
from scen.ledger.bundles import edits_by_bundle, orphan_bundles, stored_bundles
from scen.ledger.events import Activated, Committed, Restored, Scheduled
from scen.ledger.files import spare_checkpoints, stray_files
from scen.ledger.ledger import Ledger
from scen.ledger.markers import leased_versions, read_pins, read_policy


@dataclass(frozen=True, slots=True)
class Keep:
    """What must stay: the newest version, all that were the newest at some moment since `since`,
    these `versions`, and those that are in use (see `used_versions`). Files that nothing needs stay
    until `orphans_until`, as somebody may be about to need them."""

    since: datetime
    orphans_until: datetime
    versions: frozenset[int] = frozenset()

    @classmethod
    def for_days(cls, now: datetime, days: float, versions: Iterable[int] = ()) -> "Keep":
        """What was there in the last days; orphans for one."""
        return cls(now - timedelta(days=days), now - timedelta(days=1), frozenset(versions))


@dataclass(frozen=True)
class Plan:
    """`edit_ids` are those that could be rolled back to until now, and whose experts go with the
    `files`. `kept` are the versions that can still be asked and rolled back to; the edits of every
    version can still be read."""

    kept: tuple[int, ...]
    edit_ids: tuple[str, ...]
    files: tuple[StoredFile, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the files."""
        return sum(file.size for file in self.files)


def plan_collection(storage: Storage, ledger: Ledger, keep: Keep) -> Plan:
    """What would be deleted. Raises ConfigError for a version that the ledger has not, and
    IntegrityError where the log or the serving policy is damaged."""
    kept = kept_versions(storage, ledger, keep)
    needed = referenced_at(ledger, kept)
    stored = stored_bundles(storage)
    edits: list[str] = []
    files: list[StoredFile] = []
    for digest, entries in edits_by_bundle(ledger).items():
        if digest in stored and not any(entry.edit_id in needed for entry in entries):
            edits += [entry.edit_id for entry in entries]
            files.append(stored[digest])
    orphans = [*orphan_bundles(storage, ledger), *stray_files(storage)]
    files += [file for file in orphans if file.written_at < keep.orphans_until]
    files += spare_checkpoints(storage, kept)
    return Plan(tuple(sorted(kept)), tuple(edits), tuple(files))


def collect(storage: Storage, ledger: Ledger, plan: Plan, about: About) -> int:
    """Do it; the newest version after that. Raises ConfigError where an edit of the plan has come
    back meanwhile: nothing is deleted then."""
    version = ledger.version()
    if plan.edit_ids:
        version = ledger.settle(Drop(plan.edit_ids, about)).version
    for file in plan.files:
        storage.delete(file.path)
    return version


def kept_versions(storage: Storage, ledger: Ledger, keep: Keep) -> set[int]:
    """The versions that stay. Raises ConfigError for one that the ledger has not."""
    newest, log = ledger.version(), ledger.log()
    unknown = sorted(version for version in keep.versions if not 0 <= version <= newest)
    if unknown:
        raise ConfigError(f"--keep-version: {unknown} are not among 0 to {newest}")
    used = {version for version in used_versions(storage) if version <= newest}
    recent = {entry.version for entry in log if entry.committed_at >= keep.since}
    before = [entry.version for entry in log if entry.committed_at < keep.since]
    return {newest, *keep.versions, *used, *recent, max(before, default=0)}


def used_versions(storage: Storage) -> set[int]:
    """The versions that somebody has pinned, that the serving policy names, or that a server
    answers from now. Raises IntegrityError where the policy is damaged."""
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
