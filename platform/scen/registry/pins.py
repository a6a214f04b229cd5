"""Pins: versions of a ledger that somebody needs, such as a server that answers from one.

A pin is a file named after its owner and version, as files are made and deleted and never changed.
"""

import re

from scen.errors import ConfigError
from scen.fs import Storage

_FOLDER = "pins"
_OWNER = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


def read_pins(storage: Storage) -> dict[str, int]:
    """The oldest version that each owner has pinned."""
    found: dict[str, int] = {}
    for name in reversed(storage.names(_FOLDER)):
        _, owner, version = name.split("/")
        found[owner] = int(version)
    return found


def pin(storage: Storage, owner: str, version: int) -> None:
    """Keep what this version needs, for this owner, and what it pinned before no more. Raises
    ConfigError for a name that could not be a file's."""
    if not _OWNER.fullmatch(owner):
        raise ConfigError(f"owner: {owner!r} must match {_OWNER.pattern}")
    storage.put_new(_path(owner, version), b"")  # before the old one goes
    unpin(storage, owner, but=version)


def unpin(storage: Storage, owner: str, but: int | None = None) -> None:
    """Forget what an owner has pinned."""
    for name in storage.names(f"{_FOLDER}/{owner}"):
        if but is None or name != _path(owner, but):
            storage.delete(name)


def _path(owner: str, version: int) -> str:
    return f"{_FOLDER}/{owner}/{version:020d}"
