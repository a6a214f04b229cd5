"""Continuous batching: one decoding step of all rows; rows join and leave between steps."""

from typing import Any

import torch
from torch import Tensor

from scen.model.decode import EditedModel
from scen.model.decoder import Pair, Span, run_below, run_head
from scen.model.route import Route

BLOCK = 64
"""The cache grows in multiples of this many positions."""


class RowCache:
    """KV cache of rows of different lengths, each stored from position 0 on.

    The buffer grows with the longest row and is freed when the last row leaves. Positions past a
    row's length hold zeros or stale values, and are masked.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.lengths: list[int] = []
        self._kv_L2RHTd: Tensor | None = None
        self._write_index: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffer."""
        return 0 if self._kv_L2RHTd is None else self._kv_L2RHTd.nbytes

    def join(self, filled: Any, row: int, length: int) -> None:
        """Append the last `length` positions of a row of a prefill's left-padded cache as a row."""
        if len(self) == self.capacity:
            raise RuntimeError(f"no more than {self.capacity} rows fit")
        parts = [
            torch.stack([layer.keys[row, :, -length:], layer.values[row, :, -length:]])
            for layer in filled.layers
        ]
        kv_L2HTd = torch.stack(parts)
        kv = self._reserve(length, like=kv_L2HTd)
        kv[:, :, len(self), :, :length] = kv_L2HTd
        self.lengths.append(length)

    def leave(self, row: int) -> None:
        """Remove a row; the last row takes its index."""
        last, length = len(self) - 1, self.lengths[-1]
        if row != last:
            assert self._kv_L2RHTd is not None
            self._kv_L2RHTd[:, :, row, :, :length] = self._kv_L2RHTd[:, :, last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()
        if not self.lengths:
            self._kv_L2RHTd = None

    def next_span(self) -> Span:
        """The span of the next token of each row; running it stores its keys and values here."""
        kv = self._reserve(max(self.lengths) + 1)
        length_B = torch.tensor(self.lengths, device=kv.device)
        self._write_index = (torch.arange(len(self), device=kv.device), length_B)
        order_T = torch.arange(max(self.lengths) + 1, device=kv.device)
        distance_B11T = (length_B[:, None] - order_T)[:, None, None]
        itself: Any = self  # attention calls only `update` of a cache
        return Span(length_B[:, None], distance_B11T >= 0, distance_B11T, itself)

    def grow(self) -> None:
        """Count the token of the last span as part of its row."""
        self.lengths = [length + 1 for length in self.lengths]

    def update(self, keys: Tensor, values: Tensor, layer: int, **_: object) -> Pair:
        """Called by attention: stores these keys and values, and returns all of the layer."""
        assert self._kv_L2RHTd is not None
        assert self._write_index is not None
        rows_B, length_B = self._write_index
        kv_2RHTd = self._kv_L2RHTd[layer]
        for kept_RHTd, new_BH1d in zip(kv_2RHTd, (keys, values), strict=True):
            kept_RHTd[rows_B, :, length_B] = new_BH1d[:, :, 0]
        seen_2BHTd = kv_2RHTd[:, : len(self), :, : max(self.lengths) + 1]
        return seen_2BHTd[0], seen_2BHTd[1]

    def _reserve(self, length: int, like: Tensor | None = None) -> Tensor:
        """The buffer, grown if `length` positions do not fit."""
        old = self._kv_L2RHTd
        if old is None:
            assert like is not None
            layers, two, heads, _, size = like.shape
            shape = (layers, two, self.capacity, heads, _blocks(length), size)
            # Zeros, as masked positions are multiplied by zero, which does not remove a NaN.
            self._kv_L2RHTd = like.new_zeros(shape)
        elif length > old.shape[4]:
            shape = (*old.shape[:4], _blocks(max(length, old.shape[4] * 3 // 2)), old.shape[5])
            self._kv_L2RHTd = old.new_zeros(shape)
            self._kv_L2RHTd[:, :, :, :, : old.shape[4]] = old
        assert self._kv_L2RHTd is not None
        return self._kv_L2RHTd


@torch.no_grad()
def step_rows(edited: EditedModel, cache: RowCache, token_B: Tensor, route: Route) -> Tensor:
    """logits_BV after one more token of each row, which is appended to the cache."""
    model = edited.model
    count = len(model.model.layers)
    with edited.linear.use(edited.bank, route):
        h_B1D = run_below(model, count, token_B[:, None], cache.next_span())
    cache.grow()
    return run_head(model, h_B1D[:, -1])


def _blocks(length: int) -> int:
    """`length` rounded up to a multiple of BLOCK."""
    return -(-length // BLOCK) * BLOCK
