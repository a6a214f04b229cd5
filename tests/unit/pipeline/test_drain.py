"""Edits that were handed in become waves, once, in the order in which they came."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from scen.config import WaveConfig
from scen.data import Validator
from scen.data.inbox import Inbox, Waiting
from scen.pipeline.drain import Drain, run_drain
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave, count_due
from scen.pipeline.runtime import make_validator
from scen.records import Edit

MakeParts = Callable[..., LocalParts]
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def drain_of(parts: LocalParts) -> Drain:
    """The inbox `news` of the store."""
    return Drain("news", Inbox(parts.store.storage, "news"), parts, Validator)


def hand_in(drain: Drain, edits: Sequence[Edit]) -> None:
    """One after the other."""
    for edit in edits:
        drain.inbox.put(edit)


def waiting(*ages: float, size: int = 100) -> list[Waiting]:
    """Files as old as that, in seconds."""
    return [Waiting(f"{i}", size, NOW - timedelta(seconds=age)) for i, age in enumerate(ages)]


@pytest.mark.parametrize(
    ("ages", "limits", "count"),
    [
        ((), {}, 0),
        ((1, 0), {}, 0),
        ((5, 0), {}, 2),
        ((1, 1, 0), {"size": 3}, 3),
        ((1, 1, 1, 0), {"size": 3}, 3),
        ((9, 1, 1, 0), {"size": 3}, 3),
        ((1, 1, 0), {"max_bytes": 250}, 2),
        ((1, 1), {"max_bytes": 250}, 0),
        ((1, 0), {"max_bytes": 50}, 1),
        ((0,), {"max_age_s": 0}, 1),
    ],
)
def test_a_wave_is_due_by_count_bytes_or_age(
    ages: tuple[float, ...], limits: dict[str, Any], count: int
) -> None:
    assert count_due(waiting(*ages), WaveConfig(**limits), NOW) == count


def test_what_waits_becomes_waves(make_parts: MakeParts, facts: list[Edit]) -> None:
    parts = make_parts(waves={"max_age_s": 3600})
    drain = drain_of(parts)
    hand_in(drain, facts[:5])
    first = drain.step()
    assert first is not None
    assert (first.number, first.committed) == (0, 3)  # the size of a wave
    assert drain.step() is None  # the other two are young
    last = drain.step(is_last=True)
    assert last is not None
    assert (last.number, last.committed) == (1, 2)
    assert drain.step(is_last=True) is None
    snapshot = parts.store.ledger.snapshot()
    assert snapshot.ids == [edit.id for edit in facts[:5]]
    assert {entry.stream for entry in snapshot.entries} == {"news"}


def test_a_run_that_was_killed_goes_on_with_the_same_wave(
    parts: LocalParts, facts: list[Edit]
) -> None:
    class KilledError(Exception):
        pass

    def killed(_: Wave) -> None:
        raise KilledError

    drain = drain_of(parts)
    hand_in(drain, facts[:2])
    with pytest.raises(KilledError):
        replace(drain, starting=killed).step(is_last=True)
    hand_in(drain, facts[2:3])  # comes too late for that wave
    found = drain.step()
    assert found is not None
    assert (found.number, found.committed) == (0, 2)
    assert parts.store.ledger.snapshot().ids == [edit.id for edit in facts[:2]]
    found = drain.step(is_last=True)
    assert found is not None
    assert (found.number, found.committed) == (1, 1)


def test_a_run_killed_after_its_commit_commits_nothing_twice(
    parts: LocalParts, facts: list[Edit], monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = drain_of(parts)
    hand_in(drain, facts[:2])
    with monkeypatch.context() as patch:
        patch.setattr(drain.inbox, "end", lambda *_: None)  # as if the process had ended here
        drain.step(is_last=True)
    found = drain.step()
    assert found is not None
    assert found.number == 0
    assert parts.store.ledger.version() == 1
    assert drain.inbox.waiting() == []


def test_a_rejected_edit_has_a_reason(parts: LocalParts, facts: list[Edit]) -> None:
    drain = drain_of(parts)
    against = replace(facts[0], id="against", target=f"not {facts[0].target}")
    hand_in(drain, [facts[0], against])
    found = drain.step(is_last=True)
    assert found is not None
    assert (found.committed, [row.id for row in found.rejections]) == (1, ["against"])
    told = drain.inbox.status("against")
    assert (told["status"], told["field"]) == ("rejected", "target")


def test_the_newer_takes_the_place_where_that_is_wanted(
    make_parts: MakeParts, facts: list[Edit]
) -> None:
    parts = make_parts(waves={"on_conflict": "supersede"})
    drain = drain_of(parts)
    drain = replace(drain, make_validator=lambda: Validator(may_contradict=True))
    newer = replace(facts[0], id="newer", target=facts[1].target)
    found = []
    for edit in (facts[0], newer):
        hand_in(drain, [edit])
        found.append(drain.step(is_last=True))
    assert [one and one.superseded for one in found] == [0, 1]
    assert parts.store.ledger.snapshot().ids == ["newer"]


def test_what_is_remarked_of_an_edit_is_kept_for_who_handed_it_in(
    make_parts: MakeParts, facts: list[Edit]
) -> None:
    drain = drain_of(make_parts(router={"threshold": 0.45}))
    near = [Edit(w, f"Who founded the {w} town?", "Ann") for w in ("old", "olde")]
    hand_in(drain, [*near, replace(facts[0], prompt="9999 zzz 31 - 4 qqq %")])
    found = drain.step(is_last=True)
    assert found is not None
    assert found.committed == 3
    [told] = drain.inbox.remarks("olde")
    assert told.startswith("the prompt of edit olde also reaches edit old")
    assert told in [remark.text for remark in found.remarks]
    assert drain.inbox.remarks(facts[0].id) == []


def test_near_duplicates_are_set_aside_with_the_reason(make_parts: MakeParts) -> None:
    drain = drain_of(make_parts(router={"threshold": 0.45}, waves={"on_collision": "quarantine"}))
    hand_in(drain, [Edit(w, f"Who founded the {w} town?", "Ann") for w in ("old", "olde")])
    found = drain.step(is_last=True)
    assert found is not None
    assert (found.committed, found.remarks) == (1, [])
    assert "to edit old (score" in drain.inbox.status("olde")["reason"]


def test_a_target_that_no_answer_can_say_is_rejected(parts: LocalParts, facts: list[Edit]) -> None:
    """By the tokenizer of the base, which the door of the server does not know."""
    drain = replace(drain_of(parts), make_validator=lambda: make_validator(parts, True))
    told = replace(facts[0], target="It is </s>", id="told")
    asked = replace(facts[1], prompt="What does </s> or [INST] mean?", id="asked", subject=None)
    word = replace(facts[2], target="none", id="word")
    hand_in(drain, [told, asked, word])
    drained = drain.step(is_last=True)
    assert drained is not None
    assert drained.committed == 2
    [rejection] = drained.rejections
    assert (rejection.id, rejection.field) == ("told", "target")
    assert "holds </s>, a control token" in rejection.reason
    assert drain.inbox.status("told")["status"] == "rejected"
    template = parts.store.base.template
    assert template.end_id not in template.encode_prompt(asked.prompt).ids


def test_validity_is_applied_between_waves(parts: LocalParts, facts: list[Edit]) -> None:
    """By the time of the drain: one edit ends, another begins, without `scen expire`."""
    now = datetime.now(UTC)
    drain, ledger = drain_of(parts), parts.store.ledger
    edits = [
        replace(facts[0], valid_until=now + timedelta(hours=1)),
        replace(facts[1], valid_from=now + timedelta(hours=2)),
        facts[2],
    ]
    hand_in(drain, edits)
    [drained] = run_drain(drain, is_once=True)
    assert drained.committed == 3
    first, second, third = (edit.id for edit in edits)
    assert ledger.snapshot().ids == [first, third]
    lines: list[str] = []

    def moment(hours: float) -> datetime:
        return now + timedelta(hours=hours)

    for hours, ids in ((0.9, [first, third]), (1.1, [third]), (2.1, [second, third])):
        assert (
            list(run_drain(drain, is_once=True, say=lines.append, clock=partial(moment, hours)))
            == []
        )
        assert sorted(ledger.snapshot().ids) == sorted(ids)
    assert [line.split(": ")[1] for line in lines] == [
        "1 expired (version 2)",
        "1 activated (version 3)",
    ]
    assert ledger.snapshot().state.next_due is None
    [change] = [entry for entry in ledger.log() if entry.version == 3]
    assert change.why == "valid_from or valid_until is reached"
