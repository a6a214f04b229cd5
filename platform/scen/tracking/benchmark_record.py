"""What a tracker is told about a benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MethodRecord:
    """A method on `size` edits: its settings, its metrics by name, and its reliability by tenth of
    the stream (shares; empty where that was not measured)."""

    method: str
    size: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    retention: Sequence[float]


@dataclass(frozen=True, slots=True)
class BenchmarkRecord:
    """A benchmark of `base_name`. `files` are texts by path, kept as artifacts; `tables` are rows
    of tables by path."""

    name: str
    base_name: str
    params: Mapping[str, str]
    methods: Sequence[MethodRecord]
    files: Mapping[str, str]
    tables: Mapping[str, Sequence[Mapping[str, object]]]
