"""Published streams: their edits are seen by all streams of a store, not only by their own."""

from scen.fs import Storage

_FOLDER = "published"


def read_published(storage: Storage) -> frozenset[str]:
    """The streams that are published."""
    return frozenset(name.split("/")[1] for name in storage.names(_FOLDER))


def publish(storage: Storage, stream: str) -> None:
    """Let all streams see this one."""
    storage.put_new(f"{_FOLDER}/{stream}", b"")


def unpublish(storage: Storage, stream: str) -> None:
    """Let only a stream itself see its edits again."""
    storage.delete(f"{_FOLDER}/{stream}")
