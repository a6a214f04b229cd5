"""The latest answer of each edit, and which edits answer worst."""

from typing import Any

from scen.evaluation.metrics import Outcome
from scen.evaluation.probes import Probe, ProbeKind
from scen.pipeline.wave_facts import Answers, answered_by, worst


def outcome(
    kind: ProbeKind, after: str, edit_id: str | None = "a", *, is_routed: bool = True
) -> Outcome:
    """An outcome whose target is `yes`, where the base says `no`."""
    probe = Probe(kind, "?", "orig", edit_id, "yes")
    return Outcome(probe, "no", after, edit_id if is_routed else None, 1.0, None, None)


def test_a_later_answer_replaces_an_earlier_one() -> None:
    answers = Answers()
    first = [outcome("reliability", "yes"), outcome("generality", "yes"),
             outcome("generality", "no"), outcome("near_miss", "no"),
             outcome("near_miss", "yes"), outcome("locality", "x", None)]  # fmt: skip
    answers.add(1, first)
    assert answers.of("a") == {
        "before": "no", "after": "yes", "routed_to": "a", "score": 1.0, "exact": True,
        "measured_at": 1, "rephrases": 2, "rephrases_right": 1,
        "near_misses": 2, "near_misses_right": 1,
    }  # fmt: skip
    answers.add(2, [outcome("retention", "no", is_routed=False)])
    latest = answers.of("a")
    assert (latest["exact"], latest["routed_to"], latest["measured_at"]) == (False, None, 2)
    assert (latest["rephrases"], latest["rephrases_right"]) == (2, 1)
    answers.add(3, [outcome("generality", "yes")])
    assert (answers.of("a")["rephrases"], answers.of("a")["rephrases_right"]) == (1, 1)
    assert answers.of("b") == {}


def test_worst_first_and_only_active_or_held_edits() -> None:
    def row(
        name: str, exact: bool, routed_to: str | None, status: str = "active"
    ) -> dict[str, Any]:
        return {"edit_id": name, "exact": exact, "routed_to": routed_to, "status": status}

    rows = [
        row("fine", True, "fine"),
        row("known", True, None),
        row("untrained", False, "untrained"),
        row("lost", False, "fine", "held"),
        row("gone", False, None, "revoked in version 3"),
        {"edit_id": "unmeasured", "status": "active"},
    ]
    wrong = worst(rows)
    assert [one["edit_id"] for one in wrong] == ["lost", "untrained", "known"]
    assert [answered_by(one) for one in wrong] == ["edit fine", "itself", "the base"]
