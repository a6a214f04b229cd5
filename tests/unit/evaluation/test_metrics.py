"""Outcomes made by hand, and the numbers that a person finds with a pencil."""

import json
import re
from dataclasses import asdict, replace

import pytest

from scen.evaluation.metrics import (
    EvalReport,
    Outcome,
    flatten_report,
    runners_up,
    share,
    summarise,
)
from scen.evaluation.probes import Probe


def own_prompt(
    edit_id: str,
    after: str,
    routed_to: str | None,
    forced: tuple[float, float] = (0.0, 1.0),
    before: str = "no",
) -> Outcome:
    """An edit's own prompt, whose target is `yes`."""
    probe = Probe("reliability", "Q?", "prompt", edit_id, "yes")
    return Outcome(probe, before, after, routed_to, 0.9, routed_to, None, *forced)


def rephrase(edit_id: str, source: str, after: str, routed_to: str | None) -> Outcome:
    """A rephrase of an edit's prompt."""
    probe = Probe("generality", "Q'?", source, edit_id, "yes")
    return Outcome(probe, "no", after, routed_to, 0.7, edit_id, None, 0.25, 0.75)


def unrelated(after: str = "same", routed_to: str | None = None, identical: bool = True) -> Outcome:
    """A locality prompt, which the base answers with `same`."""
    return Outcome(Probe("locality", "L?", "file"), "same", after, routed_to, 0.1, "a", identical)


def near_miss(after: str, routed_to: str | None) -> Outcome:
    """A near miss of edit a, which the base answers with `same`."""
    probe = Probe("near_miss", "N?", "edit", "a")
    return Outcome(probe, "same", after, routed_to, 0.4, "a", routed_to is None)


def earlier(after: str) -> Outcome:
    """The prompt of an earlier edit, whose target is `yes`."""
    return Outcome(
        Probe("retention", "E?", "earlier", "z", "yes"), "no", after, "z", 0.8, "z", None
    )


OUTCOMES = [
    own_prompt("a", "yes", "a"),
    unrelated(),
    own_prompt("b", "yes", "b", (0.5, 1.0), before="yes"),
    own_prompt("c", "yes indeed", "c", (0.0, 0.5)),  # goes on after the target
    own_prompt("d", "no", None, (0.0, 0.0)),
    rephrase("a", "orig", "yes", "a"),
    rephrase("b", "orig", "no", "c"),
    rephrase("c", "drawn", "yes", "c"),
    rephrase("d", "orig", "no", None),
    near_miss("same", None),
    near_miss("changed", "a"),
    unrelated("changed", "b", identical=False),
    unrelated("same", "a", identical=False),  # an expert spoke and said what the base says
    unrelated("same", None, identical=False),
    earlier("yes"),
    earlier("no"),
]


@pytest.fixture
def report() -> EvalReport:
    return summarise(OUTCOMES)


def test_free_answers_count_when_they_are_the_target_and_nothing_more(report: EvalReport) -> None:
    assert (report.n_edits, report.reliability, report.reliability_before) == (4, 0.5, 0.25)
    assert report.generality == {"drawn": 1.0, "orig": pytest.approx(1 / 3)}
    assert report.generality_before == {"drawn": 0.0, "orig": 0.0}


def test_locality_is_of_all_and_bits_of_the_unrouted_only(report: EvalReport) -> None:
    assert report.locality_unchanged == 0.75
    assert report.logits_identical == 0.5
    assert report.near_miss_unchanged == 0.5


def test_routing_counts_which_edit_answered(report: EvalReport) -> None:
    assert report.routing == {
        "prompt_to_own_edit": 0.75,
        "rephrase_to_own_edit": 0.5,
        "wrong_edit": pytest.approx(1 / 8),
        "false_activation_locality": 0.5,
        "false_activation_near_miss": 0.5,
    }


def test_teacher_forced_figures_stand_beside(report: EvalReport) -> None:
    assert report.teacher_forced == {
        "reliability_before": 0.125,
        "reliability_after": 0.625,
        "generality_before": 0.25,
        "generality_after": 0.75,
    }


def test_counts_say_how_much_a_share_is_worth(report: EvalReport) -> None:
    assert report.counts == {
        "reliability": 4,
        "locality": 4,
        "locality_routed": 2,
        "near_miss": 2,
        "retention": 2,
        "generality_drawn": 1,
        "generality_orig": 3,
    }


def test_the_order_of_outcomes_does_not_matter(report: EvalReport) -> None:
    assert summarise(OUTCOMES[::-1]) == report


def test_a_report_survives_json(report: EvalReport) -> None:
    assert EvalReport(**json.loads(json.dumps(asdict(report)))) == report


def test_what_was_not_probed_has_no_number() -> None:
    report = summarise([])
    assert (report.n_edits, report.reliability, report.locality_unchanged) == (0, None, None)
    assert report.routing == report.generality == report.teacher_forced == {}
    assert flatten_report(report) == {}
    routed = summarise([unrelated("same", "a", identical=False)])
    assert (routed.locality_unchanged, routed.logits_identical) == (1.0, None)


def test_a_share_of_nothing_is_none() -> None:
    assert share([]) is None
    assert share([True, False, False, False]) == 0.25


def test_flat_names_for_a_tracker(report: EvalReport) -> None:
    flat = flatten_report(report)
    assert flat["eval/reliability_before"] == 0.25
    assert flat["eval/reliability_after"] == 0.5
    assert flat["eval/generality_drawn_after"] == 1.0
    assert flat["eval/generality_drawn_before"] == 0.0
    assert flat["eval/routing_false_activation_locality"] == 0.5
    assert flat["eval/teacher_forced_reliability_after"] == 0.625
    assert flat["eval/logits_identical"] == 0.5
    assert flat["eval/retention"] == 0.5
    assert len(flat) == 6 + 4 + 5 + 4


def test_runners_up_are_of_own_prompts() -> None:
    mixed = [replace(own_prompt("a", "yes", "a"), runner_up="b"), own_prompt("c", "no", None)]
    mixed.append(replace(rephrase("d", "orig", "yes", "d"), runner_up="e"))
    assert runners_up(mixed) == [("a", "b")]


@pytest.mark.parametrize("source", ["gpt (v2)", "a/../b", "#1, 50%", "é" * 300])
def test_flat_names_are_such_as_trackers_take(source: str) -> None:
    flat = flatten_report(summarise([rephrase("a", source, "yes", "a")]))
    assert sum(name.startswith("eval/generality_") for name in flat) == 2
    for name in flat:
        assert re.fullmatch(r"eval/[\w.-]{1,200}", name)
