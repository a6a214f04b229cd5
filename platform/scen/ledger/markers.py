"""Marker files: writer epochs, leases, pins, the serving policy, published streams.

Each fact is one small file that is created if absent, never changed, and deleted when it no longer
holds, so that every backend keeps it with the same guarantees.
"""

import json
import re
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from scen.errors import ConfigError, ConflictError, IntegrityError
from scen.fs import Storage

LEASE = timedelta(hours=1)
_RENEW_BEFORE_END = LEASE / 2
_EPOCHS, _LEASES, _PINS, _SERVING, _PUBLISHED = "epochs", "leases", "pins", "serving", "published"
_OWNER = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


# Epochs: epochs/NUMBER. The writer with the newest one fences off all writers before it.


def newest_epoch(storage: Storage) -> int:
    """The newest claimed epoch; 0 if there is none."""
    return max((int(name.rsplit("/", 1)[1]) for name in storage.names(_EPOCHS)), default=0)


def claim_epoch(storage: Storage) -> int:
    """Claim the next epoch for this writer: writers of earlier epochs are refused from now on."""
    epoch = newest_epoch(storage) + 1
    while not storage.put_new(f"{_EPOCHS}/{epoch:010d}", b""):
        epoch += 1
    return epoch


def require_epoch(epoch: int | None, newest: int) -> None:
    """Raises ConflictError if a writer's epoch is not the newest; None is never refused."""
    if epoch is not None and epoch < newest:
        raise ConflictError(
            f"ledger: epoch {epoch} is over, a writer of epoch {newest} has taken its place; this "
            "writer must end"
        )


# Leases: leases/HOLDER.VERSION.END, with the end in seconds since 1970. A lease that is not renewed
# expires, so a killed server does not retain its version for long.


def leased_versions(storage: Storage, now: datetime) -> set[int]:
    """The versions that are leased by servers at a moment (with time zone)."""
    leases = (_parse_lease(name) for name in storage.names(_LEASES))
    return {version for version, end in leases if end > now}


class Lease:
    """The lease of one server on the version that it answers from, for an hour at a time.

    While it lasts, `scen gc` deletes no expert of that version. After `take`, call
    `Ledger.require_experts` to detect experts that were deleted before.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._holder = uuid.uuid4().hex
        self._ends: dict[int, datetime] = {}  # by version, written or tried
        self._paths: dict[int, str] = {}

    def take(self, version: int, now: datetime | None = None) -> bool:
        """Lease a version in addition to those already leased; True if a file was written.

        Writes only for a new version or once half of the lease has passed, so it may be called at
        any rate. Raises storage errors; the next due call tries again.
        """
        now = now or datetime.now(UTC)
        end = self._ends.get(version)
        if end is not None and now < end - _RENEW_BEFORE_END:
            return False
        self._ends[version] = end = now + LEASE
        path = f"{_LEASES}/{self._holder}.{version}.{int(end.timestamp())}"
        self._storage.put_new(path, b"")
        old, self._paths[version] = self._paths.get(version, path), path
        if old != path:
            self._storage.delete(old)
        return True

    def hold(self, version: int, now: datetime | None = None, others: Collection[int] = ()) -> None:
        """Lease this version and the `others`, and release the rest; also deletes all expired
        leases."""
        now = now or datetime.now(UTC)
        written = [self.take(leased, now) for leased in (version, *others)]
        kept = {
            leased: path for leased, path in self._paths.items() if leased in {version, *others}
        }
        if version not in kept or not (any(written) or kept != self._paths):
            return
        stale = {name for name in self._storage.names(_LEASES) if _parse_lease(name)[1] <= now}
        for path in (stale | set(self._paths.values())) - set(kept.values()):
            self._storage.delete(path)
        self._ends, self._paths = {leased: self._ends[leased] for leased in kept}, kept

    def end(self) -> None:
        """Release all versions."""
        for path in self._paths.values():
            self._storage.delete(path)


def _parse_lease(name: str) -> tuple[int, datetime]:
    _, version, end = name.rsplit(".", 2)
    return int(version), datetime.fromtimestamp(int(end), UTC)


# Pins: pins/OWNER/VERSION. They do not expire.


def read_pins(storage: Storage) -> dict[str, int]:
    """The oldest version that each owner has pinned."""
    oldest: dict[str, int] = {}
    for name in reversed(storage.names(_PINS)):
        _, owner, version = name.split("/")
        oldest[owner] = int(version)
    return oldest


def pin(storage: Storage, owner: str, version: int) -> None:
    """Retain this version for an owner and release the versions it pinned before. Raises
    ConfigError for an owner that cannot be a file name."""
    if not _OWNER.fullmatch(owner):
        raise ConfigError(f"owner: {owner!r} must match {_OWNER.pattern}")
    storage.put_new(_pin_path(owner, version), b"")  # before the old pin is deleted
    unpin(storage, owner, but=version)


def unpin(storage: Storage, owner: str, but: int | None = None) -> None:
    """Release the versions that an owner has pinned, except version `but`."""
    for name in storage.names(f"{_PINS}/{owner}"):
        if but is None or name != _pin_path(owner, but):
            storage.delete(name)


def _pin_path(owner: str, version: int) -> str:
    return f"{_PINS}/{owner}/{version:020d}"


# Serving policy: serving/NUMBER.json. The last one applies.


@dataclass(frozen=True, slots=True)
class Policy:
    """Which versions all servers of a store answer from: `held` instead of the newest (None: the
    newest), and `candidate` for a `share` of the requests that name no version. `who` set it."""

    held: int | None = None
    candidate: int | None = None
    share: float = 0.0
    who: str = ""

    @property
    def versions(self) -> set[int]:
        """The versions that it names."""
        return {version for version in (self.held, self.candidate) if version is not None}


def read_policy(storage: Storage) -> Policy:
    """The current policy. Raises IntegrityError if its file is damaged."""
    names = storage.names(_SERVING)
    if not names:
        return Policy()
    try:
        return Policy(**json.loads(storage.read(names[-1])))
    except (ValueError, TypeError) as err:
        raise IntegrityError(f"{storage.child_uri(names[-1])} is damaged ({err})") from err


def write_policy(storage: Storage, policy: Policy) -> None:
    """Apply this policy from now on."""
    number = len(storage.names(_SERVING))
    while not storage.put_json(f"{_SERVING}/{number:09d}.json", asdict(policy)):
        number += 1


# Published streams: published/STREAM. Their edits are visible to all streams of a store.


def read_published(storage: Storage) -> frozenset[str]:
    """The streams that are published."""
    return frozenset(name.split("/")[1] for name in storage.names(_PUBLISHED))


def publish(storage: Storage, stream: str) -> None:
    """Make a stream visible to all streams."""
    storage.put_new(f"{_PUBLISHED}/{stream}", b"")


def unpublish(storage: Storage, stream: str) -> None:
    """Make a stream visible to itself alone again."""
    storage.delete(f"{_PUBLISHED}/{stream}")
