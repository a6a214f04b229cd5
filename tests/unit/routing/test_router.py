"""A router survives storage, keeps its promises, and works plainly without calibration."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import Tensor

from scen.errors import ConfigError
from scen.model.keys import KeyPlace
from scen.routing.router import NEGATIVES, Router, plain_router
from scen.routing.threshold import conformal_threshold
from scen.routing.whitening import Whitening

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
