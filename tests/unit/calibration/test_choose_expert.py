"""The cheapest expert that is nearly the best; trials are real trainings."""

from dataclasses import replace

import pytest

from scen.calibration.choose_expert import (
    ExpertGrid,
    ExpertTrial,
    cheapest,
    choose_expert,
    sample_edits,
)
from scen.model.base import Base
from scen.records import Edit


@pytest.mark.parametrize(("layers", "expected"), [(30, (15, 18, 20, 22, 24)), (6, (3, 4))])
def test_layers_tried_lie_from_the_middle_up(layers: int, expected: tuple[int, ...]) -> None:
    assert ExpertGrid.of(layers).layers == expected


def test_the_cheapest_within_a_point_wins() -> None:
    best = ExpertTrial(4, 0.02, 8, 40, reliability=1.0, generality=0.99)
    near = replace(best, rank=4, generality=0.98)
    worse = replace(best, rank=2, generality=0.9)
    higher = replace(near, layer=6)
    assert cheapest([best, near, worse], 10) == near
    assert cheapest([best, near, worse, higher], 10) == higher
    assert cheapest([worse], 10) == worse


def test_half_of_the_sample_are_the_longest_targets(tiny: Base, edits: list[Edit]) -> None:
    many = [replace(edits[0], id=f"e{i}", target="x" * (9 if i in (3, 4) else 1)) for i in range(9)]
    assert [edit.id for edit in sample_edits(tiny, many, 4)] == ["e0", "e3", "e4", "e5"]
    assert sample_edits(tiny, many[:2], 4) == many[:2]


def test_trials_tell_experts_that_work_from_those_that_do_not(
    tiny: Base, edits: list[Edit]
) -> None:
    grid = ExpertGrid((3,), rates=(1e-6, 5e-2), ranks=(4,), steps=(40,))
    told: list[int] = []
    best, trials = choose_expert(tiny, edits, grid, told.append)
    assert sum(told) == grid.most_trials == 5
    by_rate = {trial.lr: trial for trial in trials if trial.steps == 40}
    assert by_rate[best.lr].reliability == 1.0
    assert best.lr == 5e-2
    weak = [trial for trial in trials if trial.lr == 1e-6]
    assert weak
    assert weak[0].reliability < 0.5
    assert all(trial.seconds > 0 for trial in trials)
