"""What outcomes of probes and loss curves come to."""

import math
from typing import Any

import pytest

from scen.tracking.figures import before_after_figure, loss_figure
from scen.tracking.summaries import (
    asking_table,
    before_after_pairs,
    by_age,
    finite_curves,
    loss_summary,
    losses_by_step,
    operating_curve,
    operating_point,
    own_edits,
    route_table,
)

THRESHOLD = 0.5


def row(kind: str, edit_id: str | None, nearest: str | None, score: float) -> dict[str, Any]:
    """A probe that is routed as a store with THRESHOLD does, and answered exactly."""
    return {
        "kind": kind,
        "source": "orig",
        "edit_id": edit_id,
        "target": "x",
        "after": "x",
        "nearest": nearest,
        "score": score,
        "routed_to": nearest if score > THRESHOLD else None,
    }


ROWS = [
    row("reliability", "a", "a", 0.9),
    row("reliability", "b", "b", 0.8),
    row("generality", "a", "a", 0.6),
    row("generality", "a", "a", 0.3),
    row("generality", "b", "a", 0.95),  # another edit is nearer: no threshold helps
    row("near_miss", "a", "a", 0.7),
    row("near_miss", "b", "b", 0.2),
    row("locality", None, "b", 0.1),
]


def test_the_routes_of_each_kind() -> None:
    rows = [*ROWS, row("generality", "b", "b", 0.7) | {"source": "template"}]
    table = {line["probes"]: line for line in route_table(rows)}
    counts = {
        name: (line["asked"], line["own edit"], line["another edit"], line["base"])
        for name, line in table.items()
    }
    assert counts == {
        "prompts": (2, 2, 0, 0),
        "rephrases, orig": (3, 1, 1, 1),
        "rephrases, template": (1, 1, 0, 0),
        "near misses": (2, 1, 0, 1),
        "unrelated prompts": (1, 0, 0, 1),
    }
    assert table["rephrases, orig"]["base share"] == pytest.approx(1 / 3)
    assert route_table([{"id": "a"}]) == []


def test_rare_sources_share_a_line() -> None:
    rows = [row("generality", "a", "a", 0.9) | {"source": f"s{i:02}"} for i in range(14)]
    rows += [row("generality", "a", "a", 0.9) | {"source": "usual"}] * 2
    table = route_table(rows)
    assert len(table) == 11
    assert ("rephrases, usual", 2) in [(line["probes"], line["asked"]) for line in table]
    assert (table[-1]["probes"], table[-1]["asked"]) == ("rephrases, other sources", 5)


def test_an_unrelated_prompt_has_no_edit_of_its_own() -> None:
    [line] = route_table([row("locality", None, "b", 0.6), row("locality", None, None, 0.0)])
    assert (line["own edit"], line["another edit"], line["base"]) == (0, 1, 1)


def test_what_other_thresholds_would_have_done() -> None:
    curve = operating_curve(ROWS)
    cuts = [line["threshold"] for line in curve]
    assert cuts == sorted(cuts, reverse=True)
    assert curve[0] == {
        "threshold": 0.9,  # the highest that makes a difference
        "prompts": 0.0,
        "rephrases": 0.0,
        "near misses": 0.0,
        "unrelated prompts": 0.0,
    }
    at = {line["threshold"]: line for line in curve}
    assert at[0.7]["prompts"] == 1.0  # above it, not at it
    assert (at[0.7]["near misses"], at[0.6]["near misses"]) == (0.0, 0.5)
    assert at[0.3]["rephrases"] == pytest.approx(1 / 3)
    assert curve[-1]["rephrases"] == pytest.approx(2 / 3)  # the wrongly routed one never
    assert (curve[-1]["near misses"], curve[-1]["unrelated prompts"]) == (1.0, 1.0)


def test_the_store_stands_on_its_curve() -> None:
    [line] = [at for at in operating_curve(ROWS, THRESHOLD) if at["threshold"] == THRESHOLD]
    point = operating_point(ROWS)
    assert line == {"threshold": THRESHOLD} | point
    assert point["rephrases"] == pytest.approx(1 / 3)
    assert point["near misses"] == 0.5


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    rows = [row("generality", "a", "a", i / 5000) for i in range(5000)]
    curve = operating_curve(rows, 0.123456)
    assert 300 < len(curve) <= 403
    assert curve[0] == {"threshold": 4999 / 5000, "rephrases": 0.0}
    assert curve[-1]["rephrases"] == 1.0
    assert 0.123456 in [line["threshold"] for line in curve]


def test_a_bank_without_edits_has_no_curve() -> None:
    assert operating_curve([row("locality", None, None, 0.0)], THRESHOLD) == []


def test_earlier_edits_by_age() -> None:
    earlier = [row("retention", f"e{i}", f"e{i}", 0.9) for i in range(25)]
    for one in (earlier[0], earlier[24]):
        one["after"] = "y"
    groups = by_age([*ROWS, *earlier])
    assert [group.name for group in groups] == [str(i) for i in range(1, 11)]
    assert sum(group.asked for group in groups) == 25
    assert {group.asked for group in groups} == {2, 3}
    assert [group.asked - group.exact for group in groups] == [1, *[0] * 8, 1]
    assert groups[0].share == 0.5
    [own] = own_edits([*ROWS, *earlier])
    assert (own.name, own.asked, own.exact) == ("this wave", 2, 2)


def test_few_earlier_edits_make_fewer_parts() -> None:
    earlier = [row("retention", f"e{i}", f"e{i}", 0.9) for i in range(3)]
    assert [group.asked for group in by_age(earlier)] == [1, 1, 1]
    assert by_age(ROWS) == own_edits(earlier) == []


def test_ways_of_asking_come_before_tasks() -> None:
    rows = [
        row("task", "a", "a", 0.7) | {"source": "task: count"},
        row("task", "a", "a", 0.2) | {"source": "task: count"},
        row("asking", "a", "a", 0.9) | {"source": "greeting"},
        row("asking", "b", "a", 0.9) | {"source": "greeting", "after": "y"},
    ]
    first, second = asking_table([*ROWS, *rows])
    assert (first["way"], first["asked"]) == ("greeting", 2)
    assert (first["own edit share"], first["another edit share"], first["base share"]) == (
        0.5,
        0.5,
        0,
    )
    assert first["exact share"] == 0.5
    assert (second["way"], second["own edit share"]) == ("task: count", 0.5)
    assert "exact share" not in second
    assert asking_table(ROWS) == []


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
    figure = loss_figure([[4.0, 2.0], [2.0]], "title")
    assert figure is not None
    [axes] = figure.axes
    drawn = {str(line.get_label()): list(line.get_ydata()) for line in axes.lines}  # type: ignore[arg-type]
    assert drawn["mean"] == [3.0, 2.0]
    assert sum(list(line.get_ydata()) == [4.0, 2.0] for line in axes.lines) == 1  # type: ignore[arg-type]
    assert axes.get_yscale() == "log"


def test_rates_and_other_numbers_have_panels_of_their_own() -> None:
    figure = before_after_figure({"eval/efficacy": (0.0, 0.5), "eval/ppl": (30.0, 2.0)}, "title")
    assert figure is not None
    rates, others = figure.axes
    assert [bar.get_width() for bar in rates.patches] == [0.0, 50.0]  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in others.patches] == [30.0, 2.0]  # type: ignore[attr-defined]
    assert rates.get_xlabel() == "percent"
