"""Rows that were handed out stay as they are, however many come behind them."""

import torch

from scen.routing.growing_rows import UNIT, GrowingRows


def numbered(begin: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that tell their own number, in two tensors."""
    number_N = torch.arange(begin, begin + count)
    return number_N[:, None].expand(-1, 3), number_N.float()


def test_rows_keep_their_places_and_views_their_contents() -> None:
    rows = GrowingRows(numbered(0, 0), capacity=1)
    views = []
    for begin in range(0, 3 * UNIT, 1000):
        assert rows.append(*numbered(begin, 1000)) == range(begin, begin + 1000)
        views.append(rows.view())
    assert len(rows) == 13_000
    for number, (count, (wide, narrow)) in enumerate(views, 1):
        assert count == 1000 * number
        assert len(wide) == len(narrow) == -(-count // UNIT) * UNIT
        assert torch.equal(wide[:count], numbered(0, count)[0])
        assert torch.equal(narrow[:count], numbered(0, count)[1])


def test_views_share_the_rows_until_there_is_no_room() -> None:
    rows = GrowingRows(numbered(0, 0))
    rows.append(*numbered(0, UNIT - 1))
    before = rows.view()[1][0]
    rows.append(*numbered(UNIT - 1, 1))
    assert rows.view()[1][0].data_ptr() == before.data_ptr()
    rows.append(*numbered(UNIT, 1))
    assert rows.view()[1][0].data_ptr() != before.data_ptr()


def test_room_that_was_made_is_used() -> None:
    rows = GrowingRows(numbered(0, 0))
    rows.append(*numbered(0, 5))
    rows.reserve(2 * UNIT)
    before = rows.view()[1][0]
    rows.append(*numbered(5, 2 * UNIT))
    assert rows.view()[1][0].data_ptr() == before.data_ptr()
    assert len(rows) == 5 + 2 * UNIT
