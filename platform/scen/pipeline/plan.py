"""A wave, its journal, and how a stream is cut into waves.

The `Journal` records which steps of a wave are done, in this process or an earlier one.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from scen.config import WaveConfig
from scen.data.inbox import Waiting
from scen.fs import Storage
from scen.records import Edit, digest_json, edit_to_dict


@dataclass(frozen=True)
class Wave:
    """A batch of edits that is committed together. `key` is made from the content, so that the
    same edits under the same settings are the same wave, whoever runs it again."""

    stream: str
    index: int
    edits: tuple[Edit, ...]
    settings: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over the edits."""
        return digest_json([edit.digest for edit in self.edits])

    @cached_property
    def key(self) -> str:
        """The name of the wave in the ledger and on storage."""
        content = digest_json([self.digest, dict(self.settings)])
        return f"{self.stream}-{self.index:05d}-{content[:12]}"


def cut_waves(
    stream: str,
    batches: Iterable[list[Edit]],
    size: int,
    settings: Mapping[str, Any],
    max_bytes: int | None = None,
) -> Iterator[Wave]:
    """Waves of `size` edits in the order of the stream; the last may be smaller.

    With `max_bytes`, a wave ends before the edit that would make its edits longer than that (UTF-8
    bytes as JSON); an edit that is longer by itself is a wave of its own.
    """
    held: list[Edit] = []
    weight = index = 0
    for edit in itertools.chain.from_iterable(batches):
        more = 0 if max_bytes is None else _bytes(edit)
        if held and max_bytes is not None and weight + more > max_bytes:
            yield Wave(stream, index, tuple(held), settings)
            held, weight, index = [], 0, index + 1
        held.append(edit)
        weight += more
        if len(held) == size:
            yield Wave(stream, index, tuple(held), settings)
            held, weight, index = [], 0, index + 1
    if held:
        yield Wave(stream, index, tuple(held), settings)


def count_due(waiting: Sequence[Waiting], limits: WaveConfig, now: datetime) -> int:
    """How many of the waiting edits, the oldest first, make a wave now: as many as fill one by
    count or bytes, or all of them when the oldest has waited for `max_age_s`; else 0."""
    weight = 0
    for number, one in enumerate(waiting):
        weight += one.size
        is_heavy = limits.max_bytes is not None and weight > limits.max_bytes
        if number == limits.size or (number and is_heavy):
            return number
    if len(waiting) == limits.size:
        return limits.size
    is_old = bool(waiting) and (now - waiting[0].since).total_seconds() >= limits.max_age_s
    return len(waiting) if is_old else 0


def _bytes(edit: Edit) -> int:
    return len(json.dumps(edit_to_dict(edit), ensure_ascii=False).encode())


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
