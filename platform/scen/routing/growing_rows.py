"""Rows that are appended in place, under readers who go on with what they saw."""

import threading

from torch import Tensor

UNIT = 4096
"""Rows of storage come in multiples of this."""


class GrowingRows:
    """Tensors with one row per item each, which grow together.

    Many threads may read and write. What was handed out never changes: new rows are written behind
    it. Storage doubles where it is full; views of the old storage stay valid, and hold its memory
    until they are dropped.
    """

    def __init__(self, like: tuple[Tensor, ...], capacity: int = UNIT) -> None:
        """`like` gives types and shapes, rows aside; room for `capacity` rows is made at first."""
        room = padded(max(capacity, 1))
        self._lock = threading.Lock()
        self._count = 0
        self._parts = tuple(part.new_empty(room, *part.shape[1:]) for part in like)

    def __len__(self) -> int:
        """How many rows there are."""
        return self._count

    def append(self, *parts: Tensor) -> range:
        """Add rows behind the others, so many in each tensor; their places."""
        with self._lock:
            begin, end = self._count, self._count + len(parts[0])
            self._reserve(end)
            for kept, new in zip(self._parts, parts, strict=True):
                kept[begin:end] = new
            self._count = end
        return range(begin, end)

    def reserve(self, more: int) -> None:
        """Make room for so many more rows now: to append them needs no memory then."""
        with self._lock:
            self._reserve(self._count + more)

    def view(self) -> tuple[int, tuple[Tensor, ...]]:
        """How many rows there are, and the tensors up to a whole number of units: rows from the
        count on mean nothing, and may change."""
        with self._lock:
            rows = padded(self._count)
            return self._count, tuple(part[:rows] for part in self._parts)

    def _reserve(self, rows: int) -> None:
        """Make room for so many rows."""
        room = len(self._parts[0])
        if rows <= room:
            return
        while room < rows:
            room *= 2
        self._parts = tuple(_grown(part, self._count, room) for part in self._parts)


def padded(rows: int) -> int:
    """The next multiple of a unit."""
    return -(-rows // UNIT) * UNIT


def _grown(old: Tensor, count: int, rows: int) -> Tensor:
    """The first `count` rows of a tensor, with room for `rows`."""
    new = old.new_empty(rows, *old.shape[1:])
    new[:count] = old[:count]
    return new
