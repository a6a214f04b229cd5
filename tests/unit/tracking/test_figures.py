"""Figures of routing."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from scen.evaluation.metrics import Outcome
from scen.evaluation.probes import Probe
from scen.tracking.figures import operating_curve_figure, retention_by_age_figure, routes_figure


@pytest.fixture
def outcomes() -> list[Outcome]:
    """Two edits of a wave, two earlier ones, and questions that none should answer."""
    own = [("reliability", "a", "a", 0.9), ("generality", "a", "a", 0.4)]
    others = [("near_miss", "a", "a", 0.7), ("locality", None, "a", 0.1)]
    earlier = [("retention", "old", "old", 0.9), ("retention", "new", "a", 0.8)]
    return [
        Outcome(
            Probe(kind, "?", "orig", edit_id, "x"),  # type: ignore[arg-type]
            before="",
            after="x" if nearest == edit_id else "y",
            routed_to=nearest if score > 0.5 else None,
            score=score,
            nearest=nearest,
            identical=None,
        )
        for kind, edit_id, nearest, score in [*own, *others, *earlier]
    ]


def from_source(outcome: Outcome, source: str) -> Outcome:
    """The same, with another source of the wording."""
    return replace(outcome, probe=replace(outcome.probe, source=source))


def texts(figure: Figure) -> list[str]:
    """What stands in the first panel."""
    return [text.get_text() for text in figure.axes[0].texts]


def ends(line: Line2D) -> tuple[float, float]:
    """The last point of a line."""
    x, y = np.asarray(line.get_data())[:, -1].tolist()
    return x, y


def corners(axes: Axes) -> list[tuple[float, float]]:
    """The left edge and the height of each rectangle."""
    return [(p.get_x(), p.get_height()) for p in axes.patches if isinstance(p, Rectangle)]


def test_the_operating_curve(outcomes: list[Outcome]) -> None:
    figure = operating_curve_figure(outcomes, "title", 0.5)
    assert figure is not None
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "near misses that reach an edit, %",
        "unrelated prompts that reach an edit, %",
    ]
    near = figure.axes[0]
    drawn = {line.get_label(): line for line in near.lines}
    assert {"prompts", "rephrases", "earlier prompts"} <= drawn.keys()
    assert ends(drawn["rephrases"]) == (100, 100)
    assert ends(drawn["earlier prompts"]) == (100, 50)  # one is nearer to another
    points = [ends(line) for line in near.lines if line.get_marker() == "o"][:3]
    assert points == [(100, 100), (100, 0), (100, 50)]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()][-1] == "the store's threshold, 0.5"
    figure.savefig(io.BytesIO())  # a warning is an error


def test_a_panel_for_each_kind_that_was_probed(outcomes: list[Outcome]) -> None:
    others = [o for o in outcomes if o.probe.kind != "near_miss"]
    figure = operating_curve_figure(others, "title")
    assert figure is not None
    assert len(figure.axes) == 1


@pytest.mark.parametrize("kinds", [("reliability", "generality"), ("near_miss", "locality"), ()])
def test_no_curve_from_one_side_alone(outcomes: list[Outcome], kinds: tuple[str, ...]) -> None:
    assert operating_curve_figure([o for o in outcomes if o.probe.kind in kinds], "title") is None


def test_the_routes(outcomes: list[Outcome]) -> None:
    figure = routes_figure(outcomes, "title")
    assert figure is not None
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "prompts (1)",
        "rephrases, orig (1)",
        "earlier prompts (2)",
        "near misses (1)",
        "unrelated prompts (1)",
    ]
    assert texts(figure)[6:12] == [
        "1  (50.0 %)",
        "1  (50.0 %)",
        "0  (0.0 %)",
        "1  (100.0 %)",
        "0  (0.0 %)",
        "0  (0.0 %)",
    ]
    assert [round(left + 0.48) for left, _ in corners(axes)] == [0, 0, 0, 2, 2]
    figure.savefig(io.BytesIO())
    assert routes_figure([], "title") is None


def test_a_source_may_be_any_text(outcomes: list[Outcome]) -> None:
    long = [from_source(o, f"{i} {'a long name ' * 30}") for i, o in enumerate(outcomes * 20)]
    figure = routes_figure(long, "title")
    assert figure is not None
    assert max(len(text.get_text()) for text in figure.axes[0].get_yticklabels()) < 50
    figure.savefig(io.BytesIO())  # neither too large nor without room for the cells


def test_retention_by_age(outcomes: list[Outcome]) -> None:
    figure = retention_by_age_figure(outcomes, "title")
    assert figure is not None
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "this wave"]
    assert [height for _, height in corners(axes)] == [100, 0, 100]
    assert texts(figure) == ["1 of 1", "0 of 1", "1 of 1"]
    figure.savefig(io.BytesIO())
    own = [o for o in outcomes if o.probe.kind != "retention"]
    assert retention_by_age_figure(own, "title") is None


def test_a_source_is_shown_letter_for_letter(outcomes: list[Outcome]) -> None:
    """A source is any text; dollars would make mathematics of it."""
    source = r"$\frac$"
    figure = routes_figure([from_source(outcomes[1], source)], "one")
    assert figure is not None
    figure.draw_without_rendering()
    assert source in figure.axes[0].get_yticklabels()[0].get_text()
