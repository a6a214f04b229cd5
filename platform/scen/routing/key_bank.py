"""The compact keys of all edits: 8-bit rows that are appended in place, and views of them.

Suffixes: N rows of keys, D numbers of a key, M units of rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scen.errors import ConfigError
from scen.routing.growing_rows import UNIT, GrowingRows


@dataclass(frozen=True)
class Keys:
    """The first `count` rows of a bank, of which some are hidden; nothing changes them.

    A key is about `code_ND` (int8) times `scale_N` (float32). The tensors end at a whole number of
    units; `alive_N` (bool) is False for hidden rows and for all from `count` on, whose codes and
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

    Many threads may read and write.
    """

    def __init__(self, width: int, capacity: int = UNIT) -> None:
        if width < 1 or capacity < 1:
            raise ConfigError(f"key bank: width {width} and capacity {capacity} must be positive")
        self._width = width
        like = (torch.empty(0, width, dtype=torch.int8), torch.empty(0))
        self._rows = GrowingRows(like, capacity)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def append(self, key_ND: Tensor) -> range:
        """Add keys behind the others; the places of their rows."""
        return self._rows.append(*quantise(self._checked(key_ND)))

    def copy_from(self, other: "KeyBank", index_N: Tensor) -> None:
        """Add rows (int64) of another bank behind the others, in this order, as they are."""
        _, (code_ND, scale_N) = other._rows.view()
        self._rows.append(code_ND[index_N], scale_N[index_N])

    def snapshot(self, index_N: Tensor | None = None) -> Keys:
        """What is there now; only the rows at `index_N` (int64), where given, are alive: those of
        the edits of one version, for example. Costs a byte per row."""
        count, (code_ND, scale_N) = self._rows.view()
        alive_N = torch.zeros(len(scale_N), dtype=torch.bool)
        if index_N is None:
            alive_N[:count] = True
        else:
            if len(index_N) and not 0 <= int(index_N.min()) <= int(index_N.max()) < count:
                raise ConfigError(f"key bank: a row to show is not one of 0 .. {count - 1}")
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
    """code_ND int8 and scale_N float32: the largest number of a row becomes 127."""
    scale_N = (key_ND.float().abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (key_ND.float() / scale_N[:, None]).round().to(torch.int8), scale_N
