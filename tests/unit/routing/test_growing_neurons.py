"""A view of a bank that grows chooses as neurons that were made for those edits alone."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scen.errors import ConfigError
from scen.routing import growing_neurons
from scen.routing.build_search import build_search
from scen.routing.codes import Codes
from scen.routing.growing_neurons import GrowingNeurons
from scen.routing.growing_rows import UNIT
from scen.routing.key_neurons import Choice, KeyNeurons
from scen.routing.router import Router
from scen.routing.search_faiss import FaissSearch

MakeKeys = Callable[[int, int], Tensor]


def codes_of(router: Router, key_EKF: Tensor) -> Codes:
    return Codes.of(router.encoder(key_EKF), router.encoder.widths)


def filled(router: Router, codes: Codes, part: int) -> GrowingNeurons:
    """A bank to which the edits came a few at a time."""
    bank = GrowingNeurons(router)
    for rows in torch.arange(len(codes)).split(part):
        bank.append(taken(codes, rows))
    return bank


def taken(codes: Codes, rows: Tensor) -> Codes:
    return Codes(codes.int8_EKC[rows], codes.scale_EKH[rows])


def whole(router: Router, codes: Codes) -> KeyNeurons:
    """All edits of a bank that has nothing else."""
    return KeyNeurons.of_rows(filled(router, codes, len(codes)), torch.arange(len(codes)))


def assert_same(ours: Choice, theirs: Choice) -> None:
    """The same edits in the same order, for the same reasons."""
    assert torch.equal(ours.index_BE, theirs.index_BE)
    torch.testing.assert_close(ours.score_BE, theirs.score_BE, rtol=0, atol=1e-5)
    is_there_BE = ours.index_BE >= 0
    torch.testing.assert_close(
        ours.sim_BEV[is_there_BE], theirs.sim_BEV[is_there_BE], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("edits", "part"), [(40, 7), (UNIT + 50, 1000), (6000, 6000)])
def test_a_view_of_some_rows_is_a_bank_of_them(
    router: Router, make_keys: MakeKeys, edits: int, part: int
) -> None:
    key_EKF = make_keys(edits, 1)
    codes = codes_of(router, key_EKF)
    bank = filled(router, codes, part)
    asked = torch.cat([key_EKF[:: edits // 20] + 0.1, make_keys(10, 2)])
    for row_E in (torch.arange(edits), torch.arange(0, edits, 3), torch.tensor([edits - 1])):
        view = KeyNeurons.of_rows(bank, row_E)
        alone = whole(router, taken(codes, row_E))
        assert len(view) == len(alone) == len(row_E)
        assert_same(view.choose(asked), alone.choose(asked))
        assert torch.equal(view.code(torch.tensor([0, -1])), alone.code(torch.tensor([0, -1])))


def test_nothing_is_chosen_from_a_view_of_nothing(router: Router, make_keys: MakeKeys) -> None:
    view = KeyNeurons.of_rows(filled(router, codes_of(router, make_keys(9, 1)), 9), torch.arange(0))
    assert len(view) == 0
    assert (view.choose(make_keys(3, 2)).index_BE == -1).all()


def test_a_view_stays_while_the_bank_grows(router: Router, make_keys: MakeKeys) -> None:
    key_EKF = make_keys(30, 1)
    bank = filled(router, codes_of(router, key_EKF[:20]), 20)
    view = KeyNeurons.of_rows(bank, torch.tensor([0, 3, 4, 19]))
    before = view.choose(key_EKF)
    for _ in range(3):
        bank.append(codes_of(router, make_keys(2000, 5)))  # as near as any, if they were seen
        KeyNeurons.of_rows(bank, torch.arange(len(bank)))
    after = view.choose(key_EKF)
    assert torch.equal(after.index_BE, before.index_BE)
    assert torch.equal(after.score_BE, before.score_BE)
    assert torch.equal(after.sim_BEV, before.sim_BEV)


def test_views_share_the_keys(router: Router, make_keys: MakeKeys) -> None:
    bank = filled(router, codes_of(router, make_keys(9, 1)), 9)
    one = KeyNeurons.of_rows(bank, torch.arange(9))
    bank.append(codes_of(router, make_keys(9, 2)))
    other = KeyNeurons.of_rows(bank, torch.arange(1, 18))
    assert one.codes.int8_EKC.data_ptr() == other.codes.int8_EKC.data_ptr()


def test_picked_rows_come_in_the_order_that_is_asked_for(
    router: Router, make_keys: MakeKeys
) -> None:
    key_EKF = make_keys(50, 1)
    codes = codes_of(router, key_EKF)
    row_E = torch.tensor([40, 2, 7, 41, 3, 0])
    picked = filled(router, codes, 50).picked(row_E[:5])
    assert len(picked) == 5
    picked.append(taken(codes, row_E[5:]))
    view, alone = KeyNeurons.of_rows(picked, torch.arange(6)), whole(router, taken(codes, row_E))
    assert_same(view.choose(key_EKF), alone.choose(key_EKF))


def test_a_key_that_is_not_finite_is_refused_and_nothing_added(
    router: Router, make_keys: MakeKeys
) -> None:
    bank = filled(router, codes_of(router, make_keys(9, 1)), 9)
    broken = codes_of(router, make_keys(2, 2))
    broken.scale_EKH[1] = torch.nan
    with pytest.raises(ConfigError, match="not finite"):
        bank.append(broken)
    assert bank.append(codes_of(router, make_keys(2, 2))) == range(9, 11)
    view = KeyNeurons.of_rows(bank, torch.arange(11))
    assert view.choose(make_keys(2, 2)).index_BE[:, 0].tolist() == [9, 10]


def test_an_index_serves_later_views(
    router: Router, make_keys: MakeKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit from which there is an index is lowered: it stands at two million edits."""
    pytest.importorskip("faiss")
    lower = functools.partial(build_search, exact_limit=UNIT)
    monkeypatch.setattr(growing_neurons, "build_search", lower)
    key_EKF, old = make_keys(2 * UNIT + 200, 1), 2 * UNIT + 100
    bank = filled(router, codes_of(router, key_EKF[:old]), UNIT)
    first = KeyNeurons.of_rows(bank, torch.arange(old))
    bank.append(codes_of(router, key_EKF[old:]))
    later = KeyNeurons.of_rows(bank, torch.arange(1, len(bank)))
    assert isinstance(first.search, FaissSearch)
    assert isinstance(later.search, FaissSearch)
    assert later.search.index is first.search.index
    own = torch.tensor([0, 1, 5000, 2 * UNIT + 150])
    assert later.choose(key_EKF[own]).index_BE[1:, 0].tolist() == [0, 4999, 2 * UNIT + 149]
    assert first.choose(key_EKF[own]).index_BE[:3, 0].tolist() == [0, 1, 5000]
    assert not (later.choose(key_EKF[:1]).sim_BEV[0, 0] > 0.999).all()  # the first is hidden
