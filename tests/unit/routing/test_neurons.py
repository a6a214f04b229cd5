"""Neurons choose as a plain loop over all edits would; a growing bank gives the same views."""

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scen.errors import ConfigError
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.keys import read_keys
from scen.model.prefill import Prefill, prefill
from scen.records import EncodedEdit
from scen.routing import neurons as neurons_module
from scen.routing.key_bank import UNIT, Codes, quantise
from scen.routing.neurons import CANDIDATES, Choice, KeyNeurons, NeuronBuffer
from scen.routing.router import Router, plain_router
from scen.routing.search import FaissSearch, build_search

MakeKeys = Callable[[int, int], Tensor]


@pytest.fixture
def filled(tiny: Base, encoded: list[EncodedEdit]) -> Prefill:
    """The six prompts of the edits, through the tiny base."""
    return prefill(tiny.model, pad_prompts([e.prompt for e in encoded], tiny.pad_id), 3, (1, 4))


@pytest.fixture
def trained(filled: Prefill, router: Router) -> Router:
    """A plain router whose whitening knows the spread of the tiny base's keys."""
    key_BKF = read_keys(filled, router.encoder.places)
    noise_NKF = torch.randn(40, 2, 64, generator=torch.Generator().manual_seed(0))
    sample_NKF = noise_NKF * key_BKF.std() + key_BKF.mean(0)
    return plain_router(router.encoder.places, sample_NKF, 0.1, 0.95)


def score_all(neurons: KeyNeurons, key_BKF: Tensor) -> tuple[Tensor, Tensor]:
    """score_BE and sim_BEV of every edit, as they are stored."""
    encoder = neurons.router.encoder
    code_EKC = neurons.code(torch.arange(len(neurons)))
    sim_BEV = encoder.compare(encoder(key_BKF), code_EKC.expand(len(key_BKF), -1, -1, -1))
    return neurons.router.gate(sim_BEV), sim_BEV


def test_stored_codes_are_within_half_a_step(router: Router, make_keys: MakeKeys) -> None:
    code_EKC = router.encoder(make_keys(50, 1))
    codes = Codes.of(code_EKC, router.encoder.widths)
    error_EKC = (codes.take(torch.arange(50), router.encoder.widths) - code_EKC).abs()
    for error, view in zip(error_EKC.split((8, 4), -1), code_EKC.split((8, 4), -1), strict=True):
        assert (error <= view.abs().amax(-1, keepdim=True) / 127 / 2 + 1e-6).all()
        assert error.max() < 1 / 127
    assert codes.bytes_per_edit == 2 * (8 + 4) + 4 * 2 * 2


def test_codes_are_taken_by_any_index(router: Router, make_keys: MakeKeys) -> None:
    codes = Codes.of(router.encoder(make_keys(5, 1)), (8, 4))
    every = codes.take(torch.arange(5), (8, 4))
    index_BE = torch.tensor([[4, 0, 0], [1, 2, 3]])
    assert torch.equal(codes.take(index_BE, (8, 4)), every[index_BE])


@pytest.mark.parametrize("edits", [1, 7, CANDIDATES])
def test_few_edits_are_all_ranked_by_the_gate(
    router: Router, make_keys: MakeKeys, edits: int
) -> None:
    neurons = KeyNeurons.build(router, make_keys(edits, 1))
    key_BKF = torch.cat([make_keys(9, 2), make_keys(edits, 1) + 0.1])
    choice = neurons.choose(key_BKF)
    score_BE, sim_BEV = score_all(neurons, key_BKF)
    score_BE, order_BE = score_BE.sort(dim=1, descending=True, stable=True)
    assert torch.equal(choice.index_BE[:, :edits], order_BE)
    torch.testing.assert_close(choice.score_BE[:, :edits], score_BE, rtol=0, atol=1e-5)
    sorted_BEV = sim_BEV.gather(1, order_BE[..., None].expand_as(sim_BEV))
    torch.testing.assert_close(choice.sim_BEV[:, :edits], sorted_BEV, rtol=0, atol=1e-5)
    assert (choice.index_BE[:, edits:] == -1).all()
    assert (choice.score_BE[:, edits:] == -torch.inf).all()


def test_of_many_edits_the_nearest_by_search_key_are_ranked(
    router: Router, make_keys: MakeKeys
) -> None:
    encoder = router.encoder
    neurons = KeyNeurons.build(router, make_keys(300, 1))
    key_BKF = make_keys(20, 2)
    choice = neurons.choose(key_BKF, k=5)
    code_ED, scale_E = quantise(
        encoder.search_key(neurons.codes.take(torch.arange(300), encoder.widths))
    )
    near_BE = encoder.search_key(encoder(key_BKF)) @ (code_ED * scale_E[:, None]).T
    expected_B5 = near_BE.topk(5).indices.sort(1).values
    assert torch.equal(choice.index_BE.sort(1).values, expected_B5)
    assert (choice.score_BE.diff(dim=1) <= 0).all()
    score_B5 = score_all(neurons, key_BKF)[0].gather(1, choice.index_BE)
    torch.testing.assert_close(choice.score_BE, score_B5, rtol=0, atol=1e-5)
    assert (choice.index_BE[:, 0] != near_BE.argmax(1)).any()  # the gate is not the search


def test_the_search_key_of_the_encoder_is_the_one_that_is_used(
    router: Router, make_keys: MakeKeys
) -> None:
    search_JD = torch.zeros(16, 4)
    search_JD[:4] = torch.eye(4)  # four numbers of the first place only
    narrow = replace(router, encoder=router.encoder.searching_by(search_JD))
    neurons = KeyNeurons.build(narrow, make_keys(300, 1))
    encoder = narrow.encoder
    near_BE = (
        encoder.search_key(encoder(make_keys(20, 2)))
        @ encoder.search_key(encoder(make_keys(300, 1))).T
    )
    found_B = neurons.choose(make_keys(20, 2), k=1).index_BE[:, 0]
    lost_B = near_BE.amax(1) - near_BE.gather(1, found_B[:, None])[:, 0]
    assert lost_B.max() < 0.02  # 8 bits may confuse near ones
    wide = KeyNeurons.build(router, make_keys(300, 1)).choose(make_keys(20, 2), k=1)
    assert not torch.equal(wide.index_BE[:, 0], found_B)


def test_of_equal_edits_the_first_is_chosen(router: Router, make_keys: MakeKeys) -> None:
    key_EKF = make_keys(40, 1)
    key_EKF[[12, 30]] = key_EKF[5].clone()
    choice = KeyNeurons.build(router, key_EKF).choose(key_EKF[[30, 5]])
    assert choice.index_BE[:, :3].tolist() == [[5, 12, 30]] * 2
    assert (choice.score_BE[:, 0] == choice.score_BE[:, 2]).all()


def test_many_edits_are_built_in_parts(router: Router, make_keys: MakeKeys) -> None:
    key_EKF = make_keys(4100, 1)
    neurons = KeyNeurons.build(router, key_EKF)
    assert len(neurons) == 4100
    own = torch.tensor([0, 4095, 4096, 4099])
    assert torch.equal(neurons.choose(key_EKF[own]).index_BE[:, 0], own)


def test_without_edits_nothing_is_chosen(
    router: Router, trained: Router, filled: Prefill, make_keys: MakeKeys
) -> None:
    choice = KeyNeurons.build(router, make_keys(0, 1)).choose(make_keys(3, 2))
    assert (choice.index_BE == -1).all()
    assert (choice.score_BE == -torch.inf).all()
    nothing = KeyNeurons.build(trained, torch.zeros(0, 2, 64))
    assert len(nothing) == 0
    assert nothing.route(filled).is_base


def test_each_prompt_goes_to_its_own_edit_and_a_stranger_to_the_base(
    trained: Router, filled: Prefill
) -> None:
    key_EKF = read_keys(filled, trained.encoder.places)[:4]
    neurons = KeyNeurons.build(trained, key_EKF)
    assert neurons.layers == {1, 4}
    route = neurons.route(filled)
    assert route.expert_B.tolist() == [0, 1, 2, 3, -1, -1]
    assert (route.nearest_B >= 0).all()
    assert (route.score_B[:4] > 0.99).all()


def test_an_edit_speaks_above_the_threshold_only(trained: Router, filled: Prefill) -> None:
    key_EKF = read_keys(filled, trained.encoder.places)[:4]
    neurons = KeyNeurons.build(trained, key_EKF)
    score_B = neurons.route(filled).score_B
    least = float(score_B[4])
    at = replace(neurons, router=trained.cut_at(least)).route(filled)
    assert at.expert_B[4] == -1
    below = replace(neurons, router=trained.cut_at(least - 1e-4)).route(filled)
    assert below.expert_B[4] == below.nearest_B[4] >= 0
    assert torch.equal(below.score_B, score_B)


def test_a_second_edit_above_the_threshold_is_a_rival(trained: Router, filled: Prefill) -> None:
    key_EKF = read_keys(filled, trained.encoder.places)[:4]
    key_EKF[3] = key_EKF[0]
    route = KeyNeurons.build(trained, key_EKF).route(filled)
    assert (route.expert_B[0].item(), route.runner_up_B[0].item()) == (0, 3)
    assert route.runner_up_B[1:3].tolist() == [-1, -1]
    alone = KeyNeurons.build(trained, key_EKF[:1]).route(filled)
    assert (alone.expert_B[0].item(), alone.runner_up_B[0].item()) == (0, -1)


def codes_of(router: Router, key_EKF: Tensor) -> Codes:
    return Codes.of(router.encoder(key_EKF), router.encoder.widths)


def grown(router: Router, codes: Codes, part: int) -> NeuronBuffer:
    """A bank to which the edits came a few at a time."""
    bank = NeuronBuffer(router)
    for rows in torch.arange(len(codes)).split(part):
        bank.append(taken(codes, rows))
    return bank


def taken(codes: Codes, rows: Tensor) -> Codes:
    return Codes(codes.int8_EKC[rows], codes.scale_EKH[rows])


def whole(router: Router, codes: Codes) -> KeyNeurons:
    """All edits of a bank that has nothing else."""
    return KeyNeurons.of_rows(grown(router, codes, len(codes)), torch.arange(len(codes)))


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
    bank = grown(router, codes, part)
    asked = torch.cat([key_EKF[:: edits // 20] + 0.1, make_keys(10, 2)])
    for row_E in (torch.arange(edits), torch.arange(0, edits, 3), torch.tensor([edits - 1])):
        view = KeyNeurons.of_rows(bank, row_E)
        alone = whole(router, taken(codes, row_E))
        assert len(view) == len(alone) == len(row_E)
        assert_same(view.choose(asked), alone.choose(asked))
        assert torch.equal(view.code(torch.tensor([0, -1])), alone.code(torch.tensor([0, -1])))


def test_nothing_is_chosen_from_a_view_of_nothing(router: Router, make_keys: MakeKeys) -> None:
    view = KeyNeurons.of_rows(grown(router, codes_of(router, make_keys(9, 1)), 9), torch.arange(0))
    assert len(view) == 0
    assert (view.choose(make_keys(3, 2)).index_BE == -1).all()


def test_a_view_stays_while_the_bank_grows(router: Router, make_keys: MakeKeys) -> None:
    key_EKF = make_keys(30, 1)
    bank = grown(router, codes_of(router, key_EKF[:20]), 20)
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
    bank = grown(router, codes_of(router, make_keys(9, 1)), 9)
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
    picked = grown(router, codes, 50).picked(row_E[:5])
    assert len(picked) == 5
    picked.append(taken(codes, row_E[5:]))
    view, alone = KeyNeurons.of_rows(picked, torch.arange(6)), whole(router, taken(codes, row_E))
    assert_same(view.choose(key_EKF), alone.choose(key_EKF))


def test_a_key_that_is_not_finite_is_refused_and_nothing_added(
    router: Router, make_keys: MakeKeys
) -> None:
    bank = grown(router, codes_of(router, make_keys(9, 1)), 9)
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
    monkeypatch.setattr(neurons_module, "build_search", lower)
    key_EKF, old = make_keys(2 * UNIT + 200, 1), 2 * UNIT + 100
    bank = grown(router, codes_of(router, key_EKF[:old]), UNIT)
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
