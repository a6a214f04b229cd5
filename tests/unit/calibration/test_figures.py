"""Figures of held-out questions are counts of scores, by kind."""

import pytest
import torch

from scen.calibration.figures import HeldFigures, measure_held
from scen.calibration.fit_encoder import RouterKeys
from scen.calibration.fit_router import HeldOut, RouterPlan, fit_router
from scen.model.keys import SpanKeys
from scen.routing.router import Router

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fitted(keys: RouterKeys, plan: RouterPlan) -> tuple[Router, HeldOut]:
    return fit_router(keys.at([0, 3]), plan)


@pytest.fixture(scope="module")
def figures(keys: RouterKeys, fitted: tuple[Router, HeldOut]) -> HeldFigures:
    far_NKF = 9 + torch.randn(50, 2, 32, generator=torch.Generator().manual_seed(3))
    far = SpanKeys.of_whole(far_NKF, [f"far {i}" for i in range(50)])
    return measure_held(keys.at([0, 3]), *fitted, far)


def test_every_kind_has_its_number_of_prompts(figures: HeldFigures) -> None:
    counts = {kind.kind: kind.count for kind in figures.kinds}
    assert counts == {
        "prompts": 80,
        "rephrases, given": 80,
        "rephrases, made": 80,
        "same kind, edit absent": 240,
        "near misses, given": 80,
        "unrelated": 50,
    }


def test_shares_are_those_of_the_scores(
    keys: RouterKeys, fitted: tuple[Router, HeldOut], figures: HeldFigures
) -> None:
    router, held = fitted
    kinds = {kind.kind: kind for kind in figures.kinds}
    near_N = keys.of("near_miss")[held.rows_N]
    false = (held.other_N[near_N] > router.threshold).float().mean()
    assert kinds["near misses, given"].wrong == pytest.approx(float(false))
    assert kinds["near misses, given"].right is None
    own_N = held.own_N[keys.of("prompt")[held.rows_N]]
    assert kinds["prompts"].right == pytest.approx(float((own_N > router.threshold).float().mean()))
    assert figures.sample_size == len(router.negative_N)


def test_the_curve_rises_and_passes_the_bound(figures: HeldFigures) -> None:
    false, found = zip(*figures.curve, strict=True)
    assert list(false) == sorted(false)
    assert list(found) == sorted(found)
    assert false[0] == 0.0
    assert 0.9 < figures.auc <= 1.0


def test_json_and_metrics_leave_nothing_out_but_the_curve(figures: HeldFigures) -> None:
    told = figures.to_dict()
    assert set(told) == {"kinds", "auc", "threshold", "bound", "sample_size"}
    assert told["kinds"][0]["count"] == 80
    metrics = figures.metrics()
    assert metrics["calibration/near_misses_given_wrong"] == figures.kinds[4].wrong
    assert "calibration/rephrases_given_right" in metrics
    assert "calibration/unrelated_right" not in metrics
