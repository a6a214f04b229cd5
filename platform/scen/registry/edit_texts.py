"""The whole edits of a ledger, read together when the first of them is asked for."""

import json
import threading
from collections.abc import Iterable

from scen.errors import NotFoundError
from scen.fs import Storage
from scen.records import Edit, edit_from_dict, edit_to_dict
from scen.registry.table import open_table, read_columns

_COLUMNS = ("edit_id", "edit_json")


class EditTexts:
    """Edits by id. What is committed never changes, so that each is read and parsed once."""

    def __init__(self, storage: Storage | None = None) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._read_to = 0  # the version up to which everything is known
        self._texts: dict[str, str] = {}
        self._edits: dict[str, Edit] = {}

    @classmethod
    def of(cls, edits: Iterable[Edit]) -> "EditTexts":
        """These edits, without storage."""
        texts = cls()
        texts._edits = {edit.id: edit for edit in edits}
        return texts

    def get(self, edit_id: str) -> Edit:
        """A committed edit. Raises NotFoundError."""
        with self._lock:
            if edit_id not in self._edits:
                if edit_id not in self._texts:
                    self._read_on()
                if edit_id not in self._texts:
                    raise NotFoundError(f"edit: {edit_id!r} is not in the ledger")
                self._edits[edit_id] = edit_from_dict(json.loads(self._texts.pop(edit_id)))
            return self._edits[edit_id]

    def _read_on(self) -> None:
        if self._storage is None:
            return
        table = open_table(self._storage)
        where = f"version > {self._read_to} and event = 'committed'"
        ids, texts = read_columns(table, _COLUMNS, where)
        self._texts.update(zip(ids, texts, strict=True))
        self._read_to = table.version()


def edit_text(edit: Edit) -> str:
    """An edit as the ledger keeps it."""
    return json.dumps(edit_to_dict(edit), ensure_ascii=False)
