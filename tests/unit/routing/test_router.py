"""Routers survive being stored; conformal thresholds hold their bound."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import Tensor

from scen.errors import ConfigError
from scen.model.keys import KeyPlace
from scen.routing.keys import Whitening
from scen.routing.router import (
    NEGATIVES,
    Router,
    area_under_curve,
    conformal_threshold,
    operating_curve,
    plain_router,
)

MakeKeys = Callable[[int, int], Tensor]

PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))


def scores(router: Router, key_BKF: Tensor, other_BKF: Tensor) -> Tensor:
    """score_BE of every prompt beside every other."""
    code_EKC = router.encoder(other_BKF).expand(len(key_BKF), -1, -1, -1)
    return router.gate(router.encoder.compare(router.encoder(key_BKF), code_EKC))


@pytest.mark.parametrize("bound", [None, 0.1])
def test_a_router_survives_a_file(router: Router, make_keys: MakeKeys, bound: float | None) -> None:
    router = replace(router, threshold=0.1 + 0.2, bound=bound)
    data = safetensors.torch.save({n: t.contiguous() for n, t in router.tensors().items()})
    back = Router.from_tensors(safetensors.torch.load(data))
    assert (back.threshold, back.bound) == (0.1 + 0.2, bound)
    ours, theirs = router.tensors(), back.tensors()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name].nan_to_num(), theirs[name].nan_to_num()), name
    key_BKF = make_keys(5, 1)
    assert torch.equal(scores(back, key_BKF, key_BKF), scores(router, key_BKF, key_BKF))


def test_another_bound_moves_the_threshold_only(router: Router) -> None:
    looser = router.bounded(0.25)
    expected = conformal_threshold(router.negative_N, router.kind_N, 0.25)
    assert (looser.threshold, looser.bound) == (expected, 0.25)
    assert looser.threshold < router.bounded(0.1).threshold
    assert looser.encoder is router.encoder
    assert looser.sample_size == router.sample_size == 100


def test_a_bound_that_the_sample_cannot_hold_is_refused(router: Router) -> None:
    with pytest.raises(ConfigError, match=r"^router\.max_false_activation: 0\.001 needs at least"):
        router.bounded(0.001)


def test_a_threshold_by_hand_promises_nothing(router: Router) -> None:
    cut = router.cut_at(0.125)
    assert (cut.threshold, cut.bound) == (0.125, None)
    assert cut.bounded(0.1).threshold == router.bounded(0.1).threshold


def test_it_says_what_it_promises(router: Router) -> None:
    said = router.describe()
    assert said == "keys mean@1, last@4, threshold 8.9 (false activation at most 0.1)"
    assert router.cut_at(0.5).describe() == "keys mean@1, last@4, threshold 0.5 (no bound)"


def test_there_is_a_name_for_each_kind_of_negative(router: Router) -> None:
    assert int(router.kind_N.max()) < len(NEGATIVES)


def test_the_plain_router_scores_by_the_mean_whitened_cosine(make_keys: MakeKeys) -> None:
    neutral_NKF = make_keys(60, 0)
    router = plain_router(PLACES, neutral_NKF.half(), 0.1, 0.6)
    assert (router.threshold, router.bound, router.sample_size) == (0.6, None, 0)
    key_BKF, other_EKF = make_keys(4, 1), make_keys(6, 2)
    white = Whitening.fit(neutral_NKF, 0.1)
    cosine_BEK = torch.einsum("bkf,ekf->bek", white(key_BKF), white(other_EKF))
    expected_BE = cosine_BEK.mean(-1)
    torch.testing.assert_close(scores(router, key_BKF, other_EKF), expected_BE, rtol=0, atol=5e-3)


def test_a_plain_router_of_wide_keys_is_compact() -> None:
    draw = torch.Generator().manual_seed(0)
    neutral_NKF = torch.randn(20, 2, 700, generator=draw)
    router = plain_router(PLACES, neutral_NKF, 0.1, 0.6)
    key_BKF = torch.randn(8, 2, 700, generator=draw)
    code_BKC = router.encoder(key_BKF)
    assert code_BKC.shape == (8, 2, 512)
    assert router.encoder.search_key(code_BKC).shape == (8, 128)
    white_BKF = Whitening.fit(neutral_NKF, 0.1)(key_BKF)
    exact_BB = torch.einsum("bkf,ekf->bek", white_BKF, white_BKF).mean(-1)
    assert (scores(router, key_BKF, key_BKF) - exact_BB).abs().max() < 0.15


def test_a_plain_router_has_no_bound_to_offer(make_keys: MakeKeys) -> None:
    router = plain_router(PLACES, make_keys(20, 0), 0.1, 0.6)
    with pytest.raises(ConfigError, match=r"^router\.max_false_activation: .* there are 0"):
        router.bounded(0.5)


def rising(count: int) -> Tensor:
    """1, 2, ..., count, out of order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0)).float() + 1


@pytest.mark.parametrize(
    ("count", "bound", "rank"),
    [
        (1, 0.5, 1),
        (3, 0.25, 3),
        (9, 0.1, 9),
        (10, 0.1, 10),  # 11 * 0.9 = 9.9
        (19, 0.1, 18),
        (19, 0.05, 19),
        (9, 0.3, 7),
        (49, 0.02, 49),
        (98, 0.02, 98),  # 99 * 0.98 = 97.02
        (99, 0.02, 98),
        (999, 0.001, 999),
        (1999, 0.01, 1980),
    ],
)
def test_the_rank_by_hand(count: int, bound: float, rank: int) -> None:
    kind_N = torch.zeros(count, dtype=torch.int64)
    assert conformal_threshold(rising(count), kind_N, bound) == rank


@pytest.mark.parametrize(
    ("count", "bound", "least"), [(0, 0.5, 1), (8, 0.1, 9), (48, 0.02, 49), (998, 0.001, 999)]
)
def test_too_few_scores_are_refused(count: int, bound: float, least: int) -> None:
    kind_N = torch.zeros(count, dtype=torch.int64)
    message = rf"^router\.max_false_activation: {bound:g} needs at least {least} .* are {count}$"
    with pytest.raises(ConfigError, match=message):
        conformal_threshold(rising(count), kind_N, bound)


def test_the_worst_kind_sets_it() -> None:
    low_N, high_N = rising(990), 1000 + rising(10)
    kind_N = torch.tensor([0] * 990 + [1] * 10)
    negative_N = torch.cat([low_N, high_N])
    assert conformal_threshold(negative_N, kind_N, 0.1) == 1010  # ceil(11 * 0.9)-th of kind 1
    assert conformal_threshold(negative_N, kind_N * 0, 0.1) == 901  # ceil(1001 * 0.9)-th of all


def test_a_kind_with_too_few_counts_among_all_only() -> None:
    negative_N = torch.cat([rising(91), torch.full((8,), 500.0)])
    kind_N = torch.tensor([0] * 91 + [7] * 8)
    assert conformal_threshold(negative_N, kind_N, 0.1) == 90  # the 90th of 99
    more_N, kinds_N = (
        torch.cat([negative_N, torch.tensor([500.0])]),
        torch.tensor([0] * 91 + [7] * 9),
    )
    assert conformal_threshold(more_N, kinds_N, 0.1) == 500


def test_equal_scores_do_not_break_the_bound() -> None:
    negative_N = torch.tensor([0.0] * 50 + [1.0] * 49)
    threshold = conformal_threshold(negative_N, torch.zeros(99, dtype=torch.int64), 0.3)
    assert threshold == 1
    assert (negative_N > threshold).float().mean() <= 0.3


def test_fresh_scores_exceed_it_as_often_as_is_promised() -> None:
    draw = torch.Generator().manual_seed(0)
    kind_N = torch.zeros(99, dtype=torch.int64)
    rates = []
    for _ in range(4000):
        score_N = torch.randn(99 + 400, generator=draw)
        threshold = conformal_threshold(score_N[:99], kind_N, 0.1)
        rates.append((score_N[99:] > threshold).float().mean())
    # Exactly 0.1 in expectation; one rank less would give 0.11. The standard error is 0.0005.
    assert torch.stack(rates).mean() == pytest.approx(0.1, abs=0.0025)


def test_the_promise_holds_for_each_kind() -> None:
    draw = torch.Generator().manual_seed(0)
    kind_N = torch.arange(120) % 2
    exceeded = torch.zeros(2)
    for _ in range(2000):
        score_N = torch.randn(240, generator=draw) + torch.arange(240) % 2
        threshold = conformal_threshold(score_N[:120], kind_N, 0.1)
        fresh_N2 = score_N[120:].view(-1, 2) > threshold
        exceeded += fresh_N2.float().mean(0) / 2000
    assert exceeded[1] <= 0.1
    assert exceeded[1] > 0.08  # and no higher a threshold than that needs
    assert exceeded[0] < 0.02


def test_an_operating_curve_by_hand() -> None:
    positive_N = torch.tensor([5.0, 3.5, -torch.inf, 1.0])
    false_N, found_N = operating_curve(positive_N, torch.tensor([2.0, 4.0, 3.0, 0.0]))
    assert false_N.tolist() == [0, 0.25, 0.5, 0.75]
    assert found_N.tolist() == [0.25, 0.5, 0.5, 0.75]


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    draw = torch.Generator().manual_seed(0)
    positive_N, negative_N = torch.randn(60, generator=draw) + 1, torch.randn(90, generator=draw)
    pairs = (positive_N[:, None] > negative_N).float().mean()
    assert area_under_curve(positive_N, negative_N) == pytest.approx(float(pairs), abs=1e-6)
    assert area_under_curve(torch.ones(3), torch.zeros(4)) == 1
    assert area_under_curve(torch.zeros(3), torch.ones(4)) == 0
