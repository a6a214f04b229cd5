"""What outcomes of probes and loss curves come to."""

import math

import pytest

from scen.evaluation.metrics import Outcome
from scen.evaluation.probes import Probe, ProbeKind
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


def outcome(
    kind: ProbeKind,
    edit_id: str | None,
    nearest: str | None,
    score: float,
    source: str = "orig",
    answer: str = "x",
) -> Outcome:
    """A probe that is routed as by a store with THRESHOLD; the exact answer is `x`."""
    routed_to = nearest if score > THRESHOLD else None
    probe = Probe(kind, "?", source, edit_id, "x")
    return Outcome(probe, "", answer, routed_to, score, nearest, None)


OUTCOMES = [
    outcome("reliability", "a", "a", 0.9),
    outcome("reliability", "b", "b", 0.8),
    outcome("generality", "a", "a", 0.6),
    outcome("generality", "a", "a", 0.3),
    outcome("generality", "b", "a", 0.95),  # another edit is nearer: no threshold helps
    outcome("near_miss", "a", "a", 0.7),
    outcome("near_miss", "b", "b", 0.2),
    outcome("locality", None, "b", 0.1),
]


def test_the_routes_of_each_kind() -> None:
    rows = [*OUTCOMES, outcome("generality", "b", "b", 0.7, source="template")]
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
    assert route_table([]) == []


def test_rare_sources_share_a_line() -> None:
    rows = [outcome("generality", "a", "a", 0.9, source=f"s{i:02}") for i in range(14)]
    rows += [outcome("generality", "a", "a", 0.9, source="usual")] * 2
    table = route_table(rows)
    assert len(table) == 11
    assert ("rephrases, usual", 2) in [(line["probes"], line["asked"]) for line in table]
    assert (table[-1]["probes"], table[-1]["asked"]) == ("rephrases, other sources", 5)


def test_an_unrelated_prompt_has_no_edit_of_its_own() -> None:
    [line] = route_table(
        [outcome("locality", None, "b", 0.6), outcome("locality", None, None, 0.0)]
    )
    assert (line["own edit"], line["another edit"], line["base"]) == (0, 1, 1)


def test_what_other_thresholds_would_have_done() -> None:
    curve = operating_curve(OUTCOMES)
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
    [line] = [at for at in operating_curve(OUTCOMES, THRESHOLD) if at["threshold"] == THRESHOLD]
    point = operating_point(OUTCOMES)
    assert line == {"threshold": THRESHOLD} | point
    assert point["rephrases"] == pytest.approx(1 / 3)
    assert point["near misses"] == 0.5


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    rows = [outcome("generality", "a", "a", i / 5000) for i in range(5000)]
    curve = operating_curve(rows, 0.123456)
    assert 300 < len(curve) <= 403
    assert curve[0] == {"threshold": 4999 / 5000, "rephrases": 0.0}
    assert curve[-1]["rephrases"] == 1.0
    assert 0.123456 in [line["threshold"] for line in curve]


def test_a_bank_without_edits_has_no_curve() -> None:
    assert operating_curve([outcome("locality", None, None, 0.0)], THRESHOLD) == []


def test_earlier_edits_by_age() -> None:
    answers = ["y", *"x" * 23, "y"]
    earlier = [
        outcome("retention", f"e{i}", f"e{i}", 0.9, answer=answer)
        for i, answer in enumerate(answers)
    ]
    groups = by_age([*OUTCOMES, *earlier])
    assert [group.name for group in groups] == [str(i) for i in range(1, 11)]
    assert sum(group.asked for group in groups) == 25
    assert {group.asked for group in groups} == {2, 3}
    assert [group.asked - group.exact for group in groups] == [1, *[0] * 8, 1]
    assert groups[0].share == 0.5
    [own] = own_edits([*OUTCOMES, *earlier])
    assert (own.name, own.asked, own.exact) == ("this wave", 2, 2)


def test_few_earlier_edits_make_fewer_parts() -> None:
    earlier = [outcome("retention", f"e{i}", f"e{i}", 0.9) for i in range(3)]
    assert [group.asked for group in by_age(earlier)] == [1, 1, 1]
    assert by_age(OUTCOMES) == own_edits(earlier) == []


def test_ways_of_asking_come_before_tasks() -> None:
    rows = [
        outcome("task", "a", "a", 0.7, source="task: count"),
        outcome("task", "a", "a", 0.2, source="task: count"),
        outcome("asking", "a", "a", 0.9, source="greeting"),
        outcome("asking", "b", "a", 0.9, source="greeting", answer="y"),
    ]
    first, second = asking_table([*OUTCOMES, *rows])
    assert (first["way"], first["asked"]) == ("greeting", 2)
    assert (first["own edit share"], first["another edit share"], first["base share"]) == (
        0.5,
        0.5,
        0,
    )
    assert first["exact share"] == 0.5
    assert (second["way"], second["own edit share"]) == ("task: count", 0.5)
    assert "exact share" not in second
    assert asking_table(OUTCOMES) == []


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
