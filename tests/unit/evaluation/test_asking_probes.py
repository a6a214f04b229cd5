"""Edits asked in other ways: which probes there are, and what their outcomes come to."""

from scen.data.asking import wordings
from scen.evaluation.metrics import Outcome, flatten_report, summarise
from scen.evaluation.probes import Probe, asking_probes
from scen.records import Edit

EDITS = [Edit(f"e{i}", f"Who founded the town of Place{i}?", "Ann", f"Place{i}") for i in range(6)]


def test_each_edit_is_asked_in_every_way() -> None:
    probes = asking_probes(EDITS)
    ways = wordings("test")
    assert {p.source for p in probes if p.kind == "asking"} == set(ways.ways)
    assert {p.source for p in probes if p.kind == "task"} == set(ways.tasks)
    assert len(probes) == len(EDITS) * len([*ways.ways, *ways.tasks])
    assert all(p.target == "Ann" for p in probes if p.kind == "asking")
    assert all(p.target is None for p in probes if p.kind == "task")
    assert asking_probes(EDITS) == probes


def test_a_sample_is_spread_over_the_ways() -> None:
    count = len([*wordings("test").ways, *wordings("test").tasks])
    probes = asking_probes(EDITS, "wave", count)
    assert len({p.source for p in probes}) == len(probes) == count
    assert asking_probes(EDITS, "wave", count) == probes
    assert asking_probes(EDITS, "other wave", count) != probes
    assert len(asking_probes(EDITS, "wave", 5)) == 5
    assert asking_probes([], "wave", 5) == []


def test_a_template_without_roles_has_no_earlier_turns() -> None:
    assert any(p.earlier for p in asking_probes(EDITS))
    assert not any(p.earlier for p in asking_probes(EDITS, has_roles=False))


def outcome(kind: str, way: str, routed_to: str | None, after: str) -> Outcome:
    target = "Ann" if kind == "asking" else None
    probe = Probe(kind, "Q?", way, "a", target)  # type: ignore[arg-type]
    return Outcome(probe, "no", after, routed_to, 0.5, "a", None)


def test_figures_by_way() -> None:
    report = summarise(
        [
            outcome("asking", "greeting", "a", "Ann"),
            outcome("asking", "greeting", "b", "Bob"),
            outcome("asking", "greeting", None, "no"),
            outcome("asking", "greeting", "a", "Annie"),
            outcome("task", "task: count", None, "six"),
            outcome("task", "task: count", "a", "Ann"),
        ]
    )
    assert report.asking == {
        "greeting": {"own_edit": 0.5, "another_edit": 0.25, "exact": 0.25, "count": 4},
        "task: count": {"own_edit": 0.5, "another_edit": 0.0, "exact": None, "count": 2},
    }
    flat = flatten_report(report)
    assert flat["asking/greeting_own_edit"] == 0.5
    assert flat["asking/task__count_own_edit"] == 0.5
    assert "asking/task__count_exact" not in flat
