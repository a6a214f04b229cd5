"""A wave, and how a stream is cut into waves."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scen.records import Edit, digest_json


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
