"""The places that tell edits apart are found, and no more of them than it takes."""

import pytest

from scen.calibration.choose_places import choose_places, count_trials
from scen.model.keys import KeyPlace
from scen.training.fit_encoder import RouterKeys
from scen.training.fit_router import RouterPlan, cross_encode


@pytest.mark.slow
def test_places_that_are_noise_are_left_out(keys: RouterKeys, plan: RouterPlan) -> None:
    told: list[int] = []
    found = choose_places(cross_encode(keys, plan), keys, plan, told.append, most=3)
    assert [keys.places[i] for i in found.chosen] == [KeyPlace(1, "mean"), KeyPlace(4, "last")]
    assert [len(step.places) for step in found.steps] == [1, 2, 3]
    alone, both, _ = (step.found for step in found.steps)
    assert both > 0.9
    assert both > alone + 0.1  # same-subject near misses hold the threshold up
    assert sum(told) == count_trials(keys.places, most=3)


@pytest.mark.slow
def test_each_place_is_told_by_itself(keys: RouterKeys, plan: RouterPlan) -> None:
    found = choose_places(cross_encode(keys, plan), keys, plan, most=1)
    subject, noise = found.top1[KeyPlace(1, "mean")], found.top1[KeyPlace(4, "mean")]
    assert subject > 0.9
    assert noise < 0.3


@pytest.mark.parametrize(("depths", "most", "expected"), [(9, 6, 84), (2, 6, 8), (2, 1, 2)])
def test_trials_are_counted_before_they_run(depths: int, most: int, expected: int) -> None:
    places = [KeyPlace(d, kind) for d in range(depths) for kind in ("span", "last")]
    assert count_trials(places, most) == expected
