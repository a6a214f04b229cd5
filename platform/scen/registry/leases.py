"""Leases: the versions of a ledger that running servers answer from, each for an hour.

A lease is an empty file, `leases/HOLDER.VERSION.END`, with its end in seconds since 1970. One that
is not renewed is over by itself, so that a server that was killed keeps nothing for long.
"""

import uuid
from datetime import UTC, datetime, timedelta

from scen.fs import Storage

LEASE = timedelta(hours=1)
_RENEWED = LEASE / 2  # before its end
_FOLDER = "leases"


def leased_versions(storage: Storage, now: datetime) -> set[int]:
    """The versions that a server answers from at a moment (with time zone)."""
    found = (_parse(name) for name in storage.names(_FOLDER))
    return {version for version, end in found if end > now}


class Lease:
    """What one server answers from."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._holder = uuid.uuid4().hex
        self._version: int | None = None
        self._end = datetime.min.replace(tzinfo=UTC)
        self._path: str | None = None

    def hold(self, version: int, now: datetime | None = None) -> None:
        """Keep what this version needs, and no more what the one before it did. Writes where the
        version is another one, and each half hour; may be called as often as one likes. Raises what
        storage raises, and then tries again at the next of these occasions."""
        now = now or datetime.now(UTC)
        if version == self._version and now < self._end - _RENEWED:
            return
        self._version, self._end = version, now + LEASE
        path = f"{_FOLDER}/{self._holder}.{version}.{int(self._end.timestamp())}"
        self._storage.put_new(path, b"")
        old, self._path = self._path, path
        over = {name for name in self._storage.names(_FOLDER) if _parse(name)[1] <= now}
        for name in (over if old is None else over | {old}) - {path}:
            self._storage.delete(name)

    def end(self) -> None:
        """Nothing is needed any more."""
        if self._path is not None:
            self._storage.delete(self._path)


def _parse(name: str) -> tuple[int, datetime]:
    _, version, end = name.rsplit(".", 2)
    return int(version), datetime.fromtimestamp(int(end), UTC)
