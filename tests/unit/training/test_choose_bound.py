"""The bound that nobody asked for is the strictest that costs little."""

import pytest
import torch

from scen.errors import ConfigError
from scen.training.choose_bound import choose_bound

KIND_N = torch.zeros(1000, dtype=torch.long)


def negatives() -> torch.Tensor:
    """Scores 0, 1 .. 999, so that the bound b has its threshold at 1000 (1 - b)."""
    return torch.arange(1000.0)


def test_rephrases_far_above_all_negatives_cost_nothing() -> None:
    assert choose_bound(torch.full((100,), 2000.0), negatives(), KIND_N) == 0.005


@pytest.mark.parametrize(("lost", "expected"), [(2, 0.005), (3, 0.03)])
def test_two_points_may_be_given_up(lost: int, expected: float) -> None:
    own_N = torch.full((100,), 2000.0)
    own_N[:lost] = 975.0  # between the thresholds of 0.02 and 0.03
    assert choose_bound(own_N, negatives(), KIND_N) == expected


def test_what_no_bound_finds_does_not_count() -> None:
    own_N = torch.full((100,), -torch.inf)
    assert choose_bound(own_N, negatives(), KIND_N) == 0.005


def test_bounds_that_the_negatives_are_too_few_for_are_left_out() -> None:
    own_N = torch.full((100,), 2000.0)
    assert choose_bound(own_N, torch.arange(30.0), KIND_N[:30]) == 0.04
    with pytest.raises(ConfigError, match="at least 19 held-out hard negatives, there are 5"):
        choose_bound(own_N, torch.arange(5.0), KIND_N[:5])
