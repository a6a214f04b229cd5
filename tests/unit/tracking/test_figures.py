"""Figures of routing."""

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from scen.tracking.figures import operating_curve_figure, retention_by_age_figure, routes_figure

Row = dict[str, Any]


@pytest.fixture
def rows() -> list[Row]:
    """Two edits of a wave, two earlier ones, and questions that none should answer."""
    told = [("reliability", "a", "a", 0.9), ("generality", "a", "a", 0.4)]
    others = [("near_miss", "a", "a", 0.7), ("locality", None, "a", 0.1)]
    earlier = [("retention", "old", "old", 0.9), ("retention", "new", "a", 0.8)]
    return [
        {"kind": kind, "source": "orig", "edit_id": edit_id, "target": "x", "nearest": nearest}
        | {"score": score, "routed_to": nearest if score > 0.5 else None}
        | {"after": "x" if nearest == edit_id else "y"}
        for kind, edit_id, nearest, score in [*told, *others, *earlier]
    ]


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


def test_the_operating_curve(rows: list[Row]) -> None:
    figure = operating_curve_figure(rows, "title", 0.5)
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


def test_a_panel_for_each_kind_that_was_probed(rows: list[Row]) -> None:
    some = [row for row in rows if row["kind"] != "near_miss"]
    figure = operating_curve_figure(some, "title")
    assert figure is not None
    assert len(figure.axes) == 1


@pytest.mark.parametrize("kinds", [("reliability", "generality"), ("near_miss", "locality"), ()])
def test_no_curve_from_one_side_alone(rows: list[Row], kinds: tuple[str, ...]) -> None:
    assert operating_curve_figure([row for row in rows if row["kind"] in kinds], "title") is None


def test_the_routes(rows: list[Row]) -> None:
    figure = routes_figure(rows, "title")
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
    assert routes_figure([{"id": "a"}], "title") is None


def test_a_source_may_be_any_text(rows: list[Row]) -> None:
    sources = [row | {"source": f"{i} {'a long name ' * 30}"} for i, row in enumerate(rows * 20)]
    figure = routes_figure(sources, "title")
    assert figure is not None
    assert max(len(text.get_text()) for text in figure.axes[0].get_yticklabels()) < 50
    figure.savefig(io.BytesIO())  # neither too large nor without room for the cells


def test_retention_by_age(rows: list[Row]) -> None:
    figure = retention_by_age_figure(rows, "title")
    assert figure is not None
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "this wave"]
    assert [height for _, height in corners(axes)] == [100, 0, 100]
    assert texts(figure) == ["1 of 1", "0 of 1", "1 of 1"]
    figure.savefig(io.BytesIO())
    own = [row for row in rows if row["kind"] != "retention"]
    assert retention_by_age_figure(own, "title") is None


def test_a_source_is_told_letter_for_letter() -> None:
    """A source is any text; dollars would make mathematics of it."""
    source = r"$\frac$"
    rows = [
        {
            "kind": "generality",
            "source": source,
            "edit_id": "a",
            "routed_to": "a",
            "score": 1.0,
            "exact_after": True,
        }
    ]
    figure = routes_figure(rows, "one")
    assert figure is not None
    figure.draw_without_rendering()
    assert source in figure.axes[0].get_yticklabels()[0].get_text()
