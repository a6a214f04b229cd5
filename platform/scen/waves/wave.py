"""A wave, and the journal that remembers which of its steps are done."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scen.fs import Storage
from scen.records import Edit, digest_json


@dataclass(frozen=True)
class Wave:
    """A batch of edits that is committed together. `key` is made from the content, so that the
    same edits under the same settings are the same wave, whoever runs it again."""

    stream: str
    index: int
    edits: tuple[Edit, ...]
    settings: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """sha256 (hex) over the edits."""
        return digest_json([edit.digest for edit in self.edits])

    @property
    def key(self) -> str:
        """The name of the wave in the ledger and on storage."""
        content = digest_json([self.digest, dict(self.settings)])
        return f"{self.stream}-{self.index:05d}-{content[:12]}"


def cut_waves(
    stream: str, batches: Iterable[list[Edit]], size: int, settings: Mapping[str, Any]
) -> Iterator[Wave]:
    """Waves of `size` edits in the order of the stream; the last may be smaller."""
    held: list[Edit] = []
    index = 0
    for batch in batches:
        held.extend(batch)
        while len(held) >= size:
            yield Wave(stream, index, tuple(held[:size]), settings)
            held, index = held[size:], index + 1
    if held:
        yield Wave(stream, index, tuple(held), settings)


class Journal:
    """The finished steps of one wave, as files that appear whole: `waves/<key>/<step>.json`."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self.folder = f"waves/{key}"

    def has(self, step: str) -> bool:
        """True where the step was done, in this process or an earlier one."""
        return self._storage.exists(f"{self.folder}/{step}.json")

    def once(self, step: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a step: read where it was done before, else worked out and written."""
        path = f"{self.folder}/{step}.json"
        if not self._storage.exists(path):
            self._storage.put_json(path, work())
        result: dict[str, Any] = self._storage.read_json(path)
        return result
