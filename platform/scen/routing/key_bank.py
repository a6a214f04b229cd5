"""8-bit keys of edits, appended in place under concurrent readers, and immutable views of them.

Suffixes: N rows of keys, D dimensions of a search key, M units of rows, E edits, K places, C
dimensions of a compact key, H views per place.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scen.errors import ConfigError

UNIT = 4096
"""Storage is allocated in multiples of this many rows."""


class RowBuffer:
    """Append-only tensors with one row per item, which grow together.

    Safe under concurrent readers and writers. Rows of a view never change: new rows are written
    after them. Storage doubles when full; views of the old storage stay valid and keep its memory
    alive until they are dropped.
    """

    def __init__(self, like: tuple[Tensor, ...], capacity: int = UNIT) -> None:
        """`like` gives the dtype and row shape of each tensor, `capacity` the initial rows."""
        room = padded(max(capacity, 1))
        self._lock = threading.Lock()
        self._count = 0
        self._parts = tuple(part.new_empty(room, *part.shape[1:]) for part in like)

    def __len__(self) -> int:
        """Number of rows."""
        return self._count

    def append(self, *parts: Tensor) -> range:
        """Append the same number of rows to each tensor; returns their indices."""
        with self._lock:
            begin, end = self._count, self._count + len(parts[0])
            self._reserve(end)
            for kept, new in zip(self._parts, parts, strict=True):
                kept[begin:end] = new
            self._count = end
        return range(begin, end)

    def reserve(self, more: int) -> None:
        """Allocate `more` rows now, so that appending them allocates nothing."""
        with self._lock:
            self._reserve(self._count + more)

    def view(self) -> tuple[int, tuple[Tensor, ...]]:
        """The number of rows, and the tensors padded to whole units: rows from the count on are
        undefined and may change."""
        with self._lock:
            rows = padded(self._count)
            return self._count, tuple(part[:rows] for part in self._parts)

    def _reserve(self, rows: int) -> None:
        """Grow the storage to at least `rows` rows."""
        room = len(self._parts[0])
        if rows <= room:
            return
        while room < rows:
            room *= 2
        self._parts = tuple(_grown(part, self._count, room) for part in self._parts)


def padded(rows: int) -> int:
    """`rows` rounded up to a multiple of UNIT."""
    return -(-rows // UNIT) * UNIT


def _grown(old: Tensor, count: int, rows: int) -> Tensor:
    """A tensor of `rows` rows, the first `count` copied from `old`."""
    new = old.new_empty(rows, *old.shape[1:])
    new[:count] = old[:count]
    return new


@dataclass(frozen=True)
class Keys:
    """An immutable view of the first `count` rows of a bank, some of which may be hidden.

    A key is approximately `code_ND` (int8) times `scale_N` (float32). The tensors are padded to
    whole units; `alive_N` (bool) is False for hidden rows and for padding, whose codes and scales
    are undefined. `whole_M` marks the units whose rows are all alive.
    """

    count: int
    code_ND: Tensor
    scale_N: Tensor
    alive_N: Tensor
    whole_M: tuple[bool, ...]

    @property
    def width(self) -> int:
        """D."""
        return self.code_ND.shape[1]

    @property
    def size_bytes(self) -> int:
        """Bytes of the rows."""
        return self.count * (self.width + 4 + 1)

    def from_unit(self, unit: int) -> "Keys":
        """The rows from this unit on, renumbered from 0."""
        begin = unit * UNIT
        code_ND, scale_N = self.code_ND[begin:], self.scale_N[begin:]
        return Keys(self.count - begin, code_ND, scale_N, self.alive_N[begin:], self.whole_M[unit:])

    def dequantise(self, begin: int, end: int) -> Tensor:
        """key_ND float32 of rows `begin` to `end`."""
        return self.code_ND[begin:end] * self.scale_N[begin:end, None]


class KeyBank:
    """Search keys of edits in insertion order; the index of a row never changes.

    Safe under concurrent readers and writers.
    """

    def __init__(self, width: int, capacity: int = UNIT) -> None:
        if width < 1 or capacity < 1:
            raise ConfigError(f"key bank: width {width} and capacity {capacity} must be positive")
        self._width = width
        like = (torch.empty(0, width, dtype=torch.int8), torch.empty(0))
        self._rows = RowBuffer(like, capacity)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def append(self, key_ND: Tensor) -> range:
        """Append keys; returns the indices of their rows. Raises ConfigError if a key has the wrong
        width or is not finite."""
        return self._rows.append(*quantise(self._checked(key_ND)))

    def copy_from(self, other: "KeyBank", index_N: Tensor) -> None:
        """Append these rows (int64) of another bank, in this order, without requantising."""
        _, (code_ND, scale_N) = other._rows.view()
        self._rows.append(code_ND[index_N], scale_N[index_N])

    def snapshot(self, index_N: Tensor | None = None) -> Keys:
        """A view of the current rows. If `index_N` (int64) is given, only those rows are alive: the
        edits of one version, for example. Costs one byte per row. Raises ConfigError if an index is
        out of range."""
        count, (code_ND, scale_N) = self._rows.view()
        alive_N = torch.zeros(len(scale_N), dtype=torch.bool)
        if index_N is None:
            alive_N[:count] = True
        else:
            if len(index_N) and not 0 <= int(index_N.min()) <= int(index_N.max()) < count:
                raise ConfigError(f"key bank: a row index is outside 0 .. {count - 1}")
            alive_N[index_N] = True
        whole_M = tuple(alive_N.view(-1, UNIT).all(1).tolist())
        return Keys(count, code_ND, scale_N, alive_N, whole_M)

    def _checked(self, key_ND: Tensor) -> Tensor:
        if key_ND.ndim != 2 or key_ND.shape[1] != self._width:
            shape = tuple(key_ND.shape)
            raise ConfigError(f"key bank: keys of shape {shape}, not [rows, {self._width}]")
        if not bool(key_ND.isfinite().all()):
            raise ConfigError("key bank: a key has a number that is not finite")
        return key_ND


def quantise(key_ND: Tensor) -> tuple[Tensor, Tensor]:
    """code_ND int8 and scale_N float32: the largest magnitude of each row maps to 127."""
    scale_N = (key_ND.float().abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (key_ND.float() / scale_N[:, None]).round().to(torch.int8), scale_N


@dataclass(frozen=True)
class Codes:
    """The compact keys of E edits: `int8_EKC`, and `scale_EKH` float32 per view."""

    int8_EKC: Tensor
    scale_EKH: Tensor

    @classmethod
    def of(cls, code_EKC: Tensor, widths: tuple[int, ...]) -> "Codes":
        """Quantise each view to 8 bits; its largest magnitude maps to 127."""
        rows, places = code_EKC.shape[:2]
        parts = [quantise(view.flatten(0, 1)) for view in code_EKC.split(widths, -1)]
        int8_EKC = torch.cat([q.view(rows, places, q.shape[-1]) for q, _ in parts], -1)
        return cls(int8_EKC, torch.stack([s.view(rows, places) for _, s in parts], -1))

    @classmethod
    def join(cls, parts: Sequence["Codes"]) -> "Codes":
        """The edits of all parts (at least one), in order."""
        return cls(
            torch.cat([part.int8_EKC for part in parts]),
            torch.cat([part.scale_EKH for part in parts]),
        )

    def __len__(self) -> int:
        """E, the number of edits."""
        return len(self.scale_EKH)

    def take(self, index: Tensor, widths: tuple[int, ...]) -> Tensor:
        """code [..., K, C] float32 of the edits at these indices."""
        scale = self.scale_EKH[index].repeat_interleave(torch.tensor(widths), -1)
        return self.int8_EKC[index] * scale

    @property
    def bytes_per_edit(self) -> int:
        """Bytes of the compact keys of one edit."""
        return self.int8_EKC[0].numel() + 4 * self.scale_EKH[0].numel()
