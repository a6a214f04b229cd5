"""An index finds what the exact search finds where queries are near, and takes in later rows."""

import logging

import pytest
import torch
from torch import Tensor

from scen.routing import search as search_module
from scen.routing.key_bank import UNIT, KeyBank
from scen.routing.search import (
    DenseSearch,
    FaissSearch,
    Int8Search,
    Recipe,
    build_search,
    choose_recipe,
)

WIDTH = 32
RECIPES = [Recipe("IVF16,PQ16x4fs", 8, 64), Recipe("IVF16,SQ8", 8, 16), Recipe("HNSW16", 64, 16)]


def unit_rows(rows: int, seed: int) -> Tensor:
    """Random rows of length 1."""
    draw = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(draw, dim=1)


def near(key_ND: Tensor) -> Tensor:
    """A query beside each key, at a cosine of about 0.95."""
    return torch.nn.functional.normalize(key_ND + 0.3 * unit_rows(len(key_ND), 9), dim=1)


def filled_bank(rows: int) -> tuple[KeyBank, Tensor]:
    """A bank and its keys."""
    key_ND = unit_rows(rows, 0)
    bank = KeyBank(WIDTH)
    bank.append(key_ND)
    return bank, key_ND


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.factory)
def test_an_index_finds_near_keys_and_leaves_removed_ones_out(recipe: Recipe) -> None:
    pytest.importorskip("faiss")
    bank, key_ND = filled_bank(UNIT + 100)
    search = FaissSearch.build(bank.snapshot(), recipe)
    place = torch.arange(0, UNIT + 100, 41)
    found = search.search(near(key_ND[place]), 4)[1]
    assert (found[:, 0] == place).float().mean() > 0.9
    is_shown_N = torch.ones(len(bank), dtype=torch.bool)
    is_shown_N[place] = False
    later = search.renewed(bank.snapshot(is_shown_N.nonzero()[:, 0]))
    assert not torch.isin(later.search(near(key_ND[place]), 4)[1], place).any()
    assert torch.equal(search.search(near(key_ND[place]), 4)[1], found)


def test_visiting_all_of_an_index_is_the_exact_search() -> None:
    pytest.importorskip("faiss")
    bank, key_ND = filled_bank(UNIT)
    keys = bank.snapshot()
    query_BD = near(key_ND[:50])
    index = FaissSearch.build(keys, Recipe("IVF4,SQ8", 4, 64))
    for got, expected in zip(
        index.search(query_BD, 8), Int8Search(keys).search(query_BD, 8), strict=True
    ):
        assert torch.equal(got, expected)


def test_rows_behind_an_index_are_found_and_scarce_rows_padded() -> None:
    pytest.importorskip("faiss")
    bank, _ = filled_bank(UNIT + 10)
    search = FaissSearch.build(bank.snapshot(), Recipe("IVF4,SQ8", 4, 64))
    late_ND = unit_rows(UNIT, 5)
    bank.append(late_ND)
    found = search.renewed(bank.snapshot()).search(late_ND[::500], 1)[1][:, 0]
    assert torch.equal(found, torch.arange(0, UNIT, 500) + UNIT + 10)
    only_first = bank.snapshot(torch.tensor([0]))
    score_BK, index_BK = search.renewed(only_first).search(late_ND[:2], 3)
    assert index_BK.tolist() == [[0, -1, -1]] * 2
    assert (score_BK[:, 1:] == -torch.inf).all()


def test_the_choice_goes_by_size() -> None:
    pytest.importorskip("faiss")
    bank, key_ND = filled_bank(100)
    assert isinstance(build_search(bank.snapshot()), DenseSearch)
    bank.append(unit_rows(2 * UNIT, 1))
    assert isinstance(build_search(bank.snapshot()), Int8Search)
    index = build_search(bank.snapshot(), exact_limit=UNIT)
    assert isinstance(index, FaissSearch)
    assert index.search(key_ND[:5], 1)[1][:, 0].tolist() == [0, 1, 2, 3, 4]
    bank.append(key_ND)
    renewed = build_search(bank.snapshot(), index, exact_limit=UNIT)
    assert isinstance(renewed, FaissSearch)
    assert renewed.index is index.index
    assert renewed.keys.count == len(bank)


def test_an_index_is_renewed_until_too_much_is_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(search_module, "LATE_LIMIT", UNIT)
    bank, _ = filled_bank(UNIT + 1)
    index = build_search(bank.snapshot(), exact_limit=UNIT)
    bank.append(unit_rows(UNIT, 1))
    again = build_search(bank.snapshot(), index, exact_limit=UNIT)
    assert isinstance(again, FaissSearch)
    assert again.units == 2


def test_without_faiss_every_row_is_searched_and_a_hint_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(search_module, "has_faiss", lambda: False)
    bank, _ = filled_bank(UNIT + 1)
    with caplog.at_level(logging.WARNING):
        search = build_search(bank.snapshot(), exact_limit=UNIT)
    assert isinstance(search, Int8Search)
    assert "scen-platform[scale]" in caplog.text


def test_the_recipe_fits_the_bank() -> None:
    bank, _ = filled_bank(UNIT)
    assert choose_recipe(bank.snapshot()) == Recipe("IVF16,PQ16x4fs", 2, 64)
    odd = KeyBank(5)
    odd.append(torch.ones(1000, 5))
    assert choose_recipe(odd.snapshot()) == Recipe("IVF4,SQ8", 1, 64)
