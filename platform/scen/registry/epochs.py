"""Epochs of writers: whoever claims the next one takes the place of all before."""

from scen.errors import ConflictError
from scen.fs import Storage

_FOLDER = "epochs"


def newest_epoch(storage: Storage) -> int:
    """The newest epoch that was claimed; 0 where none was."""
    return max((int(name.rsplit("/", 1)[1]) for name in storage.names(_FOLDER)), default=0)


def claim_epoch(storage: Storage) -> int:
    """The next epoch, for this writer alone: writers of earlier ones are refused from now on."""
    epoch = newest_epoch(storage) + 1
    while not storage.put_new(f"{_FOLDER}/{epoch:010d}", b""):
        epoch += 1
    return epoch


def require_epoch(epoch: int | None, newest: int) -> None:
    """Raises ConflictError where another writer has taken the place of one that has an epoch."""
    if epoch is not None and epoch < newest:
        raise ConflictError(
            f"ledger: epoch {epoch} is over, a writer of epoch {newest} has taken its place; this "
            "writer must end"
        )
