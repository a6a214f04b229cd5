"""Banks grow under readers; a snapshot never changes."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scen.errors import ConfigError
from scen.routing.key_bank import UNIT, KeyBank, Keys, RowBuffer, quantise
from scen.routing.search import Int8Search


def numbered(begin: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that tell their own number, in two tensors."""
    number_N = torch.arange(begin, begin + count)
    return number_N[:, None].expand(-1, 3), number_N.float()


def test_rows_keep_their_places_and_views_their_contents() -> None:
    rows = RowBuffer(numbered(0, 0), capacity=1)
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
    rows = RowBuffer(numbered(0, 0))
    rows.append(*numbered(0, UNIT - 1))
    before = rows.view()[1][0]
    rows.append(*numbered(UNIT - 1, 1))
    assert rows.view()[1][0].data_ptr() == before.data_ptr()
    rows.append(*numbered(UNIT, 1))
    assert rows.view()[1][0].data_ptr() != before.data_ptr()


def test_room_that_was_made_is_used() -> None:
    rows = RowBuffer(numbered(0, 0))
    rows.append(*numbered(0, 5))
    rows.reserve(2 * UNIT)
    before = rows.view()[1][0]
    rows.append(*numbered(5, 2 * UNIT))
    assert rows.view()[1][0].data_ptr() == before.data_ptr()
    assert len(rows) == 5 + 2 * UNIT


WIDTH = 16


def unit_rows(rows: int, seed: int = 0) -> Tensor:
    """Random rows of length 1."""
    draw = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(draw, dim=1)


def contents(keys: Keys) -> tuple[Tensor, Tensor]:
    """Copies of the rows of a view, and which of them are alive."""
    return keys.dequantise(0, keys.count), keys.alive_N[: keys.count].clone()


def test_rows_keep_their_places_over_growth() -> None:
    key_ND = unit_rows(3 * UNIT + 5)
    bank = KeyBank(WIDTH, capacity=1)
    places = [bank.append(part) for part in key_ND.split(1000)]
    assert [place.start for place in places] == list(range(0, len(key_ND), 1000))
    assert len(bank) == len(key_ND) == places[-1].stop
    whole = bank.snapshot().dequantise(0, len(bank))
    torch.testing.assert_close(whole, key_ND, rtol=0, atol=1 / 127)


def test_a_view_does_not_change() -> None:
    bank = KeyBank(WIDTH)
    bank.append(unit_rows(100))
    view = bank.snapshot()
    before = contents(view)
    query_BD = unit_rows(4, 9)
    found = Int8Search(view).search(query_BD, 5)
    bank.append(unit_rows(50, 1))
    bank.append(unit_rows(2 * UNIT, 2))
    later = bank.snapshot(torch.arange(2, 120))
    assert all(map(torch.equal, contents(view), before))
    assert all(map(torch.equal, Int8Search(view).search(query_BD, 5), found))
    assert later.count == 150 + 2 * UNIT
    assert later.alive_N.nonzero()[:, 0].tolist() == list(range(2, 120))
    assert bank.snapshot().alive_N.sum() == later.count  # what one view hides, another shows


def test_views_share_the_rows() -> None:
    bank = KeyBank(WIDTH)
    bank.append(unit_rows(10))
    first = bank.snapshot()
    bank.append(unit_rows(10))
    assert first.code_ND.data_ptr() == bank.snapshot().code_ND.data_ptr()


def test_the_tail_of_a_view_counts_from_its_unit() -> None:
    key_ND = unit_rows(UNIT + 7)
    bank = KeyBank(WIDTH)
    bank.append(key_ND)
    shown = torch.tensor([i for i in range(UNIT + 7) if i != UNIT + 1])
    tail = bank.snapshot(shown).from_unit(1)
    assert tail.count == 7
    assert tail.alive_N[:8].tolist() == [True, False, True, True, True, True, True, False]
    assert tail.size_bytes == 7 * (WIDTH + 5)
    assert Int8Search(tail).search(key_ND[UNIT + 3 : UNIT + 4], 1)[1].tolist() == [[3]]


def test_wrong_keys_and_rows_are_refused() -> None:
    bank = KeyBank(WIDTH)
    with pytest.raises(ConfigError, match="positive"):
        KeyBank(0)
    with pytest.raises(ConfigError, match="not \\[rows, 16\\]"):
        bank.append(torch.zeros(2, 3))
    with pytest.raises(ConfigError, match="not finite"):
        bank.append(torch.full((1, WIDTH), torch.nan))
    with pytest.raises(ConfigError, match="row index is outside"):
        bank.snapshot(torch.tensor([0]))
    assert len(bank) == 0


def test_rows_of_another_bank_are_taken_as_they_are() -> None:
    bank, other = KeyBank(WIDTH), KeyBank(WIDTH)
    bank.append(unit_rows(9))
    other.append(unit_rows(2, 1))
    other.copy_from(bank, torch.tensor([7, 0]))
    keys = other.snapshot()
    assert keys.count == 4
    assert torch.equal(keys.dequantise(2, 4), bank.snapshot().dequantise(0, 9)[[7, 0]])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_quantised_rows_are_near_and_stay_as_they_are(row: list[float]) -> None:
    key_ND = torch.tensor([row])
    code_ND, scale_N = quantise(key_ND)
    assert (code_ND >= -127).all()
    again_ND = code_ND * scale_N[:, None]
    assert (again_ND - key_ND).abs().max() <= 0.501 * scale_N + 1e-30
    assert torch.equal(quantise(again_ND)[0], code_ND)


def test_readers_see_whole_rows_while_a_writer_appends() -> None:
    """Every reader finds each key of its view under its own place, growth included."""
    key_ND = unit_rows(3 * UNIT)
    bank = KeyBank(WIDTH)
    bank.append(key_ND[:64])
    done = threading.Event()
    faults: list[str] = []

    def read() -> None:
        while not done.is_set():
            view = bank.snapshot()
            place = torch.arange(0, view.count, max(1, view.count // 16))
            found = Int8Search(view).search(key_ND[place], 1)[1][:, 0]
            if not torch.equal(found, place):
                faults.append(f"{place.tolist()} found as {found.tolist()}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for part in key_ND[64:].split(256):
        bank.append(part)
    done.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert bank.snapshot().count == len(key_ND)
