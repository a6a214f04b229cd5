"""The compact keys of all edits: 8-bit rows that are appended in place, and views of them.

Suffixes: N rows of keys, D numbers of a key, M units of rows.
"""

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from scen.errors import ConfigError

UNIT = 4096
"""Rows of storage come in multiples of this."""


@dataclass(frozen=True)
class Keys:
    """The first `count` rows of a bank as they were at one moment; nothing changes them.

    A key is about `code_ND` (int8) times `scale_N` (float32). The tensors end at a whole number of
    units; `alive_N` (bool) is False for removed rows and for all from `count` on, whose codes and
    scales mean nothing. `whole_M` says which units have no such row.
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
        """The rows from a unit on; their places count from there."""
        begin = unit * UNIT
        code_ND, scale_N = self.code_ND[begin:], self.scale_N[begin:]
        return Keys(self.count - begin, code_ND, scale_N, self.alive_N[begin:], self.whole_M[unit:])

    def dequantise(self, begin: int, end: int) -> Tensor:
        """key_ND float32 of these rows."""
        return self.code_ND[begin:end] * self.scale_N[begin:end, None]


class KeyBank:
    """Keys of edits in the order of their arrival: a row's place is the edit's index for ever.

    Many threads may read and write. Storage doubles where it is full; views of the old storage
    stay valid, and hold its memory until they are dropped.
    """

    def __init__(self, width: int, capacity: int = UNIT) -> None:
        if width < 1 or capacity < 1:
            raise ConfigError(f"key bank: width {width} and capacity {capacity} must be positive")
        rows = -(-capacity // UNIT) * UNIT
        self._lock = threading.Lock()
        self._count = 0
        self._code_ND = torch.empty(rows, width, dtype=torch.int8)
        self._scale_N = torch.empty(rows)
        self._alive_N = torch.zeros(rows, dtype=torch.bool)

    def __len__(self) -> int:
        """How many rows there are, removed ones included."""
        return self._count

    def append(self, key_ND: Tensor) -> range:
        """Add keys behind the others; the places of their rows."""
        code_ND, scale_N = quantise(self._checked(key_ND))
        with self._lock:
            begin, end = self._count, self._count + len(code_ND)
            self._reserve(end)
            self._code_ND[begin:end] = code_ND
            self._scale_N[begin:end] = scale_N
            self._alive_N[begin:end] = True
            self._count = end
        return range(begin, end)

    def remove(self, index_N: Tensor) -> None:
        """Hide rows (int64) from later views; those of a superseded edit, for example."""
        with self._lock:
            if len(index_N) and not 0 <= int(index_N.min()) <= int(index_N.max()) < self._count:
                raise ConfigError(f"key bank: a row to remove is not one of 0 .. {self._count - 1}")
            self._alive_N[index_N] = False

    def snapshot(self) -> Keys:
        """What is there now. Costs a copy of one byte per row."""
        with self._lock:
            rows = -(-self._count // UNIT) * UNIT
            alive_N = self._alive_N[:rows].clone()
            whole_M = tuple(alive_N.view(-1, UNIT).all(1).tolist())
            code_ND, scale_N = self._code_ND[:rows], self._scale_N[:rows]
            return Keys(self._count, code_ND, scale_N, alive_N, whole_M)

    def _checked(self, key_ND: Tensor) -> Tensor:
        width = self._code_ND.shape[1]
        if key_ND.ndim != 2 or key_ND.shape[1] != width:
            raise ConfigError(f"key bank: keys of shape {tuple(key_ND.shape)}, not [rows, {width}]")
        if not bool(key_ND.isfinite().all()):
            raise ConfigError("key bank: a key has a number that is not finite")
        return key_ND

    def _reserve(self, rows: int) -> None:
        """Make room for so many rows."""
        room = len(self._code_ND)
        if rows <= room:
            return
        while room < rows:
            room *= 2
        self._code_ND = _grown(self._code_ND, self._count, room)
        self._scale_N = _grown(self._scale_N, self._count, room)
        self._alive_N = _grown(self._alive_N, self._count, room)
        self._alive_N[self._count :] = False


def quantise(key_ND: Tensor) -> tuple[Tensor, Tensor]:
    """code_ND int8 and scale_N float32: the largest number of a row becomes 127."""
    scale_N = (key_ND.float().abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (key_ND.float() / scale_N[:, None]).round().to(torch.int8), scale_N


def _grown(old: Tensor, count: int, rows: int) -> Tensor:
    """The first `count` rows of a tensor, with room for `rows`."""
    new = old.new_empty(rows, *old.shape[1:])
    new[:count] = old[:count]
    return new
