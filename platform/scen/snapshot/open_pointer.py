"""A version of a store, opened by a pointer to it and asked prompt by prompt."""

from collections.abc import Callable
from typing import Any

from scen.config import BaseConfig
from scen.errors import NotFoundError
from scen.fs import Storage
from scen.ledger.ledger import Ledger, open_ledger
from scen.ledger.pointer import SnapshotPointer, bank_rows
from scen.snapshot.ask import VersionModel
from scen.snapshot.open import load_store_base, open_on
from scen.snapshot.rows import Place


def open_pointer(
    pointer: SnapshotPointer,
    *,
    store: str | None = None,
    base: str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> VersionModel:
    """The model of a pointer. `store` and `base` say where they are now, if not where they were.

    Raises NotFoundError where there is no such store, version or bundle, BaseError where the base
    is another, IntegrityError where the version is not what was registered or a bundle is damaged.
    """
    storage = Storage(store or pointer.store)
    ledger = _ledger(storage)
    snapshot = ledger.snapshot(pointer.version)
    pointer.require(ledger.manifest, snapshot)  # before a base is loaded for nothing
    facts: dict[str, Any] = {name: pointer.base[name] for name in ("name", "template", "dtype")}
    wanted = BaseConfig(**facts | {"device": device} | ({"name": base} if base else {}))
    opened = open_on(storage, load_store_base(storage, wanted, say))
    rows = bank_rows(snapshot, pointer.held)
    edited = opened.loader.load([Place(row.bundle, row.row) for row in rows])
    ids = [row.edit_id for row in rows]
    return VersionModel(opened.base, edited, ids, pointer.version, opened.threshold)


def _ledger(storage: Storage) -> Ledger:
    try:
        return open_ledger(storage)
    except NotFoundError as err:
        raise NotFoundError(
            f"store: there is no ledger at {storage.uri}. If it was moved, say where it is: "
            "mlflow.pyfunc.load_model(URI, model_config={'store': ...})"
        ) from err
