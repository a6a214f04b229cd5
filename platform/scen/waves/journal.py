"""The journal of a wave: which of its steps are done, in this process or an earlier one."""

from collections.abc import Callable
from typing import Any

from scen.fs import Storage


class Journal:
    """The finished steps of one wave, as files that appear whole: `waves/<key>/<step>.json`."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self.folder = f"waves/{key}"

    def has(self, step: str) -> bool:
        """True where the step was done, in this process or an earlier one."""
        return self._storage.exists(f"{self.folder}/{step}.json")

    def read(self, step: str) -> dict[str, Any]:
        """The result of a step that was done. Raises NotFoundError where it was not."""
        result: dict[str, Any] = self._storage.read_json(f"{self.folder}/{step}.json")
        return result

    def once(self, step: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a step: read where it was done before, else worked out and written."""
        path = f"{self.folder}/{step}.json"
        if not self._storage.exists(path):
            self._storage.put_json(path, work())
        return self.read(step)
