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
    """A batch of edits that is committed together. `key` has a digest of edits and settings, so
    that a rerun of the same edits under the same settings is the same wave."""

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

    With `max_bytes`, a wave ends before its edits exceed that many bytes (UTF-8 JSON); a larger
    single edit is a wave of its own.
    """
    pending: list[Edit] = []
    num_bytes = index = 0
    for edit in itertools.chain.from_iterable(batches):
        edit_bytes = 0 if max_bytes is None else _bytes(edit)
        if pending and max_bytes is not None and num_bytes + edit_bytes > max_bytes:
            yield Wave(stream, index, tuple(pending), settings)
            pending, num_bytes, index = [], 0, index + 1
        pending.append(edit)
        num_bytes += edit_bytes
        if len(pending) == size:
            yield Wave(stream, index, tuple(pending), settings)
            pending, num_bytes, index = [], 0, index + 1
    if pending:
        yield Wave(stream, index, tuple(pending), settings)


def count_due(waiting: Sequence[Waiting], limits: WaveConfig, now: datetime) -> int:
    """How many of the waiting edits, oldest first, form a wave now: as many as fill one by count or
    bytes, or all of them if the oldest has waited for `max_age_s`; else 0."""
    num_bytes = 0
    for number, edit in enumerate(waiting):
        num_bytes += edit.size
        is_too_large = limits.max_bytes is not None and num_bytes > limits.max_bytes
        if number == limits.size or (number and is_too_large):
            return number
    if len(waiting) == limits.size:
        return limits.size
    is_old = bool(waiting) and (now - waiting[0].since).total_seconds() >= limits.max_age_s
    return len(waiting) if is_old else 0


def _bytes(edit: Edit) -> int:
    return len(json.dumps(edit_to_dict(edit), ensure_ascii=False).encode())


class Journal:
    """The finished steps of one wave, as atomically written files `waves/<key>/<step>.json`."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self.folder = f"waves/{key}"

    def has(self, step: str) -> bool:
        """True if the step is done, in this process or an earlier one."""
        return self._storage.exists(f"{self.folder}/{step}.json")

    def read(self, step: str) -> dict[str, Any]:
        """The result of a finished step. Raises NotFoundError if it is not done."""
        result: dict[str, Any] = self._storage.read_json(f"{self.folder}/{step}.json")
        return result

    def once(self, step: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a step: read if it is done, else computed and written."""
        path = f"{self.folder}/{step}.json"
        if not self._storage.exists(path):
            self._storage.put_json(path, work())
        return self.read(step)
