"""Loss curves of unequal length, and the figures made of them."""

import math

from scen.tracking.figures import before_after_figure, before_after_pairs, loss_figure
from scen.tracking.loss_curves import finite_curves, loss_summary, losses_by_step


def test_a_finished_edit_keeps_its_last_loss() -> None:
    assert losses_by_step([[4.0, 2.0, 1.0], [3.0]]) == [[4.0, 3.0], [2.0, 3.0], [1.0, 3.0]]


def test_a_diverged_curve_ends_where_it_diverged() -> None:
    assert finite_curves([[1.0, math.nan, 0.5], [math.inf], [2.0]]) == [[1.0], [2.0]]


def test_no_curves_have_no_summary() -> None:
    assert loss_summary([]) == []


def test_pairs_need_both_ends() -> None:
    metrics = {"eval/a_before": 0.1, "eval/a_after": 0.9, "eval/b_before": 0.2, "eval/c": 1.0}
    assert before_after_pairs(metrics) == {"eval/a": (0.1, 0.9)}


def test_the_loss_figure_draws_each_edit_and_the_mean() -> None:
    [axes] = loss_figure([[4.0, 2.0], [2.0]], "title").axes
    drawn = {str(line.get_label()): list(line.get_ydata()) for line in axes.lines}  # type: ignore[arg-type]
    assert drawn["mean"] == [3.0, 2.0]
    assert sum(list(line.get_ydata()) == [4.0, 2.0] for line in axes.lines) == 1  # type: ignore[arg-type]
    assert axes.get_yscale() == "log"


def test_rates_and_other_numbers_have_panels_of_their_own() -> None:
    figure = before_after_figure({"eval/efficacy": (0.0, 0.5), "eval/ppl": (30.0, 2.0)}, "title")
    rates, others = figure.axes
    assert [bar.get_width() for bar in rates.patches] == [0.0, 50.0]  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in others.patches] == [30.0, 2.0]  # type: ignore[attr-defined]
    assert rates.get_xlabel() == "percent"
