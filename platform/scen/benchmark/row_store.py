"""Rows of a benchmark on storage, so that a run that was stopped goes on where it ended."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from scen.benchmark.material import Row
from scen.fs import Storage
from scen.records import digest_json


class RowStore:
    """Rows by what decides them; a new release measures them anew only in a new folder."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def once(self, content: Any, make: Callable[[], Row]) -> Row:
        """The row that `content` (JSON types) decides: the kept one, else made and kept."""
        path = f"rows/{digest_json(content)[:24]}.json"
        if not self._storage.exists(path):
            self._storage.put_json(path, asdict(make()))
        return Row(**self._storage.read_json(path))
