"""The searches agree with the plain product, with each other, and on ties and holes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scen.routing.key_bank import KeyBank, Keys
from scen.routing.search import DenseSearch, Int8Search, Search, top_stable

WIDTH = 64


def unit_rows(rows: int, seed: int, width: int = WIDTH) -> Tensor:
    """Random rows of length 1."""
    draw = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(draw, dim=1)


def near(key_ND: Tensor, seed: int) -> Tensor:
    """A query beside each key, at a cosine of about 0.8."""
    return torch.nn.functional.normalize(key_ND + 0.75 * unit_rows(len(key_ND), seed), dim=1)


def snapshot(key_ND: Tensor, removed: list[int] | None = None) -> Keys:
    """A view of a bank with these keys, of which some are hidden."""
    bank = KeyBank(key_ND.shape[1])
    bank.append(key_ND)
    is_shown_N = torch.ones(len(key_ND), dtype=torch.bool)
    is_shown_N[removed or []] = False
    return bank.snapshot(is_shown_N.nonzero()[:, 0])


def searches(keys: Keys) -> list[Search]:
    """Every search that looks at all rows."""
    return [DenseSearch.build(keys), Int8Search(keys)]


@pytest.mark.parametrize("rows", [1, 31, 4096, 9000])
def test_near_queries_find_what_the_float32_product_finds(rows: int) -> None:
    key_ND = unit_rows(rows, 0)
    chosen = torch.arange(0, rows, -(-rows // 70))
    query_BD = near(key_ND[chosen], 1)
    exact_BN = query_BD @ key_ND.T
    for search in searches(snapshot(key_ND)):
        score_BK, index_BK = search.search(query_BD, 1)
        assert torch.equal(index_BK, exact_BN.argmax(1, keepdim=True))
        torch.testing.assert_close(score_BK, exact_BN.amax(1, keepdim=True), rtol=0, atol=5e-3)
        assert (score_BK.dtype, index_BK.dtype) == (torch.float32, torch.int64)


def test_both_searches_return_the_same_eight() -> None:
    key_ND = unit_rows(9000, 0)
    dense, int8 = (search.search(near(key_ND[:80], 1), 8) for search in searches(snapshot(key_ND)))
    assert torch.equal(dense[1], int8[1])
    torch.testing.assert_close(dense[0], int8[0])
    assert (int8[0].diff(dim=1) <= 0).all()


def test_a_row_of_a_batch_gets_what_it_gets_alone() -> None:
    key_ND = unit_rows(5000, 0)
    query_BD = near(key_ND[:40], 1)
    search = Int8Search(snapshot(key_ND))
    score_BK, index_BK = search.search(query_BD, 4)
    for row in range(0, 40, 7):
        alone = search.search(query_BD[row : row + 1], 4)
        assert torch.equal(alone[0][0], score_BK[row])
        assert torch.equal(alone[1][0], index_BK[row])


@pytest.mark.parametrize("rows", [0, 3])
def test_what_is_missing_is_minus_one(rows: int) -> None:
    for search in searches(snapshot(unit_rows(rows, 0))):
        score_BK, index_BK = search.search(unit_rows(2, 1), 8)
        assert score_BK.shape == index_BK.shape == (2, 8)
        assert index_BK.sort(1).values[:, -rows or 8 :].tolist() == [list(range(rows))] * 2
        assert (index_BK[:, rows:] == -1).all()
        assert (score_BK[:, rows:] == -torch.inf).all()


def test_no_queries_have_no_results() -> None:
    for search in searches(snapshot(unit_rows(10, 0))):
        score_BK, index_BK = search.search(torch.empty(0, WIDTH), 8)
        assert score_BK.shape == index_BK.shape == (0, 8)


def test_a_removed_row_is_not_found_and_no_other_moves() -> None:
    key_ND = unit_rows(9000, 0)
    removed = [0, 4095, 4096, 8999]
    query_BD = near(key_ND[[0, 1, 4095, 4096, 8998, 8999]], 1)
    expected_BN = query_BD @ key_ND.T
    expected_BN[:, removed] = -torch.inf
    for search in searches(snapshot(key_ND, removed)):
        _, index_BK = search.search(query_BD, 1)
        assert torch.equal(index_BK[:, 0], expected_BN.argmax(1))


def test_where_nearly_all_is_removed_the_rest_is_found() -> None:
    key_ND = unit_rows(9000, 0)
    opposite = -key_ND[5000:5001]  # its score is negative, below that of every other row
    for search in searches(snapshot(key_ND, [i for i in range(9000) if i not in (7, 5000)])):
        assert search.search(opposite, 3)[1].tolist() == [[7, 5000, -1]]


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_equal_keys_come_in_the_order_of_their_rows(batch: int) -> None:
    key_ND = unit_rows(6000, 0)
    twins = torch.arange(11, 6000, 97)  # more than there are groups to look into
    key_ND[twins] = key_ND[11].clone()
    query_BD = near(key_ND[11:12], 1).expand(batch, -1).contiguous()
    for search in searches(snapshot(key_ND)):
        score_BK, index_BK = search.search(query_BD, 8)
        assert index_BK.tolist() == [twins[:8].tolist()] * batch
        assert (score_BK == score_BK[:, :1]).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(1, 45), st.integers(1, 3))
def test_top_stable_is_a_stable_sort_cut_short(values: list[int], k: int, rows: int) -> None:
    score_BN = torch.tensor([values] * rows, dtype=torch.float32)
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    score_BK, index_BK = top_stable(score_BN, k)
    assert index_BK.tolist() == [order] * rows
    assert score_BK.tolist() == [[values[i] for i in order]] * rows


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 300),
    removed=st.sets(st.integers(0, 299)),
    k=st.integers(1, 20),
    width=st.sampled_from([1, 7, 64, 100]),
)
def test_int8_agrees_with_dense_whatever_the_shape(
    rows: int, removed: set[int], k: int, width: int
) -> None:
    keys = snapshot(unit_rows(rows, rows, width), sorted(i for i in removed if i < rows))
    query_BD = unit_rows(3, 1, width)
    dense = DenseSearch.build(keys).search(query_BD, rows)
    score_BK, index_BK = Int8Search(keys).search(query_BD, k)
    torch.testing.assert_close(score_BK[:, :rows], dense[0][:, :k], rtol=0, atol=1e-5)
    gone = torch.tensor(sorted(removed))
    assert not torch.isin(index_BK, gone).any()
    assert ((index_BK == -1) == (score_BK == -torch.inf)).all()
