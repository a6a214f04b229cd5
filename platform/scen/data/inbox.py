"""The inbox: edits submitted one by one, queued on storage for the next wave of their stream.

    inbox/STREAM/waiting/NAME.jsonl     one edit; NAME is made from its id
    inbox/STREAM/cuts/NNNNNNNNN.jsonl   the edits of a wave, in order: written once, before it runs
    inbox/STREAM/rejected/NAME.json     why an edit was not admitted to a wave
    inbox/STREAM/remarks/NAME.json      remarks on an edit, as text

A cut holds the edits themselves, so that a wave whose run was killed is rerun with the same content
and hence under the same key.
"""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from scen.data.rows import Rejection
from scen.errors import ConfigError, ConflictError, NotFoundError
from scen.fs import Storage
from scen.records import Edit, digest_bytes, edit_from_dict, edit_to_dict

_STREAM = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued edit: its file, its size as JSON in bytes, and when it was queued (UTC)."""

    path: str
    size: int
    since: datetime


class Inbox:
    """The queued edits of one stream. Raises ConfigError for an invalid stream name."""

    def __init__(self, storage: Storage, stream: str) -> None:
        if not isinstance(stream, str) or not _STREAM.fullmatch(stream):
            raise ConfigError(f"stream: must match {_STREAM.pattern}, such as news")
        self._storage, self._root = storage, f"inbox/{stream}"

    def put(self, edit: Edit) -> None:
        """Queue an edit; idempotent. Raises ConflictError if another one is queued under its id."""
        line = _line(edit)
        path = self._path("waiting", edit.id, "jsonl")
        if not self._storage.put_new(path, line) and self._storage.read(path) != line:
            raise ConflictError(f"id: {edit.id} is another edit in the queue; choose another id")

    def status(self, edit_id: str) -> dict[str, Any]:
        """`{"status": "queued"}`, or rejected with `field` and `reason`. Raises NotFoundError."""
        if self._storage.exists(self._path("waiting", edit_id, "jsonl")):
            return {"status": "queued"}
        try:
            reason: dict[str, str] = self._storage.read_json(self._reason(edit_id))
            return {"status": "rejected"} | reason
        except NotFoundError:
            raise NotFoundError(f"edit {edit_id} is not in {self._root}") from None

    def withdraw(self, edit_id: str) -> None:
        """Remove a queued edit. Raises NotFoundError if it is not queued, ConflictError if its wave
        has begun."""
        last = self.last_cut()
        if last >= 0 and any(e.id == edit_id and self._waits(e) for e in self.edits(last)):
            raise ConflictError(f"edit {edit_id} is being committed; try again when it is")
        if self.status(edit_id)["status"] != "queued":
            raise NotFoundError(f"edit {edit_id} is not queued in {self._root}")
        self._storage.delete(self._path("waiting", edit_id, "jsonl"))

    def waiting(self) -> list[Waiting]:
        """The queued edits, oldest first."""
        files = self._storage.files(f"{self._root}/waiting")
        queued = [Waiting(file.path, file.size, file.written_at) for file in files]
        return sorted(queued, key=lambda edit: (edit.since, edit.path))

    def cut(self, number: int, chosen: Sequence[Waiting]) -> None:
        """Make these edits the cut of that number, unless another process did so first."""
        with contextlib.suppress(NotFoundError):  # another process did, and has already finished it
            lines = b"".join(self._storage.read(edit.path) for edit in chosen)
            self._storage.put_new(self._cut(number), lines)

    def last_cut(self) -> int:
        """The number of the newest cut; -1 before the first."""
        names = self._storage.names(f"{self._root}/cuts")
        return int(names[-1].rpartition("/")[2].partition(".")[0]) if names else -1

    def edits(self, number: int) -> tuple[Edit, ...]:
        """The edits of a cut, in order."""
        return tuple(edit_from_dict(row) for row in self.rows(number))

    def rows(self, number: int) -> list[dict[str, Any]]:
        """The edits of a cut as JSON objects."""
        lines = self._storage.read(self._cut(number)).split(b"\n")
        return [json.loads(line) for line in lines if line]

    def is_open(self, number: int) -> bool:
        """True while an edit of the cut is queued: its wave has not finished."""
        return any(self._waits(edit) for edit in self.edits(number))

    def end(
        self,
        number: int,
        rejections: Sequence[Rejection],
        remarks: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        """Record rejections, and remarks by edit, then remove the edits of the cut from the
        queue."""
        for rejection in rejections:
            if rejection.id is not None:
                reason = {"field": rejection.field, "reason": rejection.reason}
                self._renew(self._reason(rejection.id), reason)
        for edit_id, texts in remarks.items():
            self._renew(self._path("remarks", edit_id, "json"), list(texts))
        for edit in self.edits(number):
            if self._waits(edit):
                self._storage.delete(self._path("waiting", edit.id, "jsonl"))

    def remarks(self, edit_id: str) -> list[str]:
        """The remarks on an edit from the run of its wave."""
        with contextlib.suppress(NotFoundError):
            texts: list[str] = self._storage.read_json(self._path("remarks", edit_id, "json"))
            return texts
        return []

    def _renew(self, path: str, value: object) -> None:
        self._storage.delete(path)  # of an earlier attempt under this id
        self._storage.put_json(path, value)

    def _waits(self, edit: Edit) -> bool:
        """True while exactly this edit is queued; another may have been queued under its id."""
        try:
            return self._storage.read(self._path("waiting", edit.id, "jsonl")) == _line(edit)
        except NotFoundError:
            return False

    def _cut(self, number: int) -> str:
        return f"{self._root}/cuts/{number:09d}.jsonl"

    def _reason(self, edit_id: str) -> str:
        return self._path("rejected", edit_id, "json")

    def _path(self, folder: str, edit_id: str, ending: str) -> str:
        name = digest_bytes(edit_id.encode("utf-8", "replace"))[:32]
        return f"{self._root}/{folder}/{name}.{ending}"


def _line(edit: Edit) -> bytes:
    return (json.dumps(edit_to_dict(edit), ensure_ascii=False) + "\n").encode()
