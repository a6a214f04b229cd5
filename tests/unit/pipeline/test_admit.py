"""Admission says of every edit what the ledger makes of it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scen.config import OnConflict
from scen.ledger.actions import WaveCommit, wave_events
from scen.ledger.events import Revoked, Superseded
from scen.ledger.state import Snapshot, State, fold
from scen.pipeline.admit import admit
from scen.records import Edit, Rephrase

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def snapshot(edits: list[Edit]) -> Snapshot:
    """The first three edits, committed as one wave."""
    wave = WaveCommit("w", "s", 0, "b" * 64, edits[:3])
    return Snapshot(1, fold(State(), wave_events(wave, State(), 1, MOMENT)))


def test_new_edits_are_fresh_and_committed_ones_known(
    edits: list[Edit], snapshot: Snapshot
) -> None:
    admission = admit(list(reversed(edits)), snapshot)
    assert [edit.id for edit in admission.fresh] == ["edit-5", "edit-4", "edit-3"]
    assert [edit.id for edit in admission.known] == ["edit-2", "edit-1", "edit-0"]
    assert admission.rejections == ()
    assert admit(edits, Snapshot(0)).fresh == tuple(edits)


@pytest.mark.parametrize(
    "change",
    [
        {"target": "another"},
        {"prompt": "Who owns it?"},
        {"rephrases": (Rephrase("Whose is it?"),)},
        {"author": "ann"},
    ],
)
def test_an_id_stands_for_one_content(
    edits: list[Edit], snapshot: Snapshot, change: dict[str, object]
) -> None:
    changed = replace(edits[1], **change)  # type: ignore[arg-type]
    [clash] = admit([changed], snapshot).rejections
    assert (clash.edit, clash.field) == (changed, "id")
    assert "give the new edit its own id" in clash.reason


@pytest.mark.parametrize("spell", [str, str.upper, lambda text: f"  {text[:-1]} "])
def test_a_prompt_has_one_target(
    edits: list[Edit], snapshot: Snapshot, spell: Callable[[str], str]
) -> None:
    prompt = spell(edits[1].prompt)
    same = replace(edits[1], id="same", prompt=prompt)
    other = replace(edits[1], id="other", prompt=prompt, target="another")
    admission = admit([same, other], snapshot)
    assert (admission.fresh, admission.known) == ((), ())
    assert [(c.edit.id, c.field) for c in admission.rejections] == [
        ("same", "prompt"),
        ("other", "prompt"),
    ]
    assert "edit-1 is committed with the same prompt and target" in admission.rejections[0].reason
    assert repr(edits[1].target) in admission.rejections[1].reason


def test_no_edit_is_lost_on_the_way(edits: list[Edit], snapshot: Snapshot) -> None:
    clash = replace(edits[0], id="again")
    admission = admit([edits[4], clash, edits[2]], snapshot)
    assert admission.fresh == (edits[4],)
    assert admission.known == (edits[2],)
    assert [c.edit for c in admission.rejections] == [clash]


def of_paris(edit_id: str, target: str, prompt: str = "Who is the mayor of Paris?") -> Edit:
    """An edit with subject and relation."""
    return Edit(edit_id, prompt, target, subject="Paris", metadata={"relation": "mayor"})


@pytest.fixture
def paris() -> Snapshot:
    """Two wordings of one fact, committed."""
    asked = [of_paris("p1", "Ann"), of_paris("p2", "Ann", "Paris has which mayor?")]
    wave = WaveCommit("w", "s", 0, "b" * 64, asked)
    return Snapshot(1, fold(State(), wave_events(wave, State(), 1, MOMENT)))


def test_a_fact_in_other_words_has_one_target(paris: Snapshot) -> None:
    again, other = (of_paris(f"p3-{who}", who, "Mayor of Paris:") for who in ("ANN", "Bob"))
    admission = admit([again, other], paris)
    assert admission.fresh == (again,)  # both wordings may be asked
    [clash] = admission.contradictions
    assert (clash.edit, clash.field) == (other, "target")
    assert "edit p3-ANN of this wave says 'ANN'" in clash.reason
    [clash] = admit([other], paris).contradictions
    assert "edit p1 is committed with the same subject and relation" in clash.reason
    assert "'Ann'" in clash.reason


def test_the_newer_takes_the_place_of_all_that_say_otherwise(paris: Snapshot) -> None:
    bob = of_paris("p3", "Bob")
    admission = admit([bob], paris, "supersede")
    assert (admission.fresh, admission.rejections) == ((bob,), ())
    assert admission.supersedes == {"p1": "p3", "p2": "p3"}
    assert admit([bob], paris).supersedes == admit([bob], paris, "refuse").supersedes == {}


@pytest.mark.parametrize("spelling", ["Ann", "ANN"])
def test_only_what_says_something_new_supersedes(paris: Snapshot, spelling: str) -> None:
    same = of_paris("p3", spelling)
    admission = admit([same], paris, "supersede")
    if spelling == "Ann":
        assert (admission.fresh, admission.supersedes) == ((), {})
        assert [clash.is_contradiction for clash in admission.rejections] == [False]
    else:  # a target may be spelt anew
        assert admission.supersedes == {"p1": "p3", "p2": "p3"}


@pytest.mark.parametrize(
    ("policy", "kept", "is_contradiction"),
    [("quarantine", "first", True), ("refuse", "first", True), ("supersede", "last", False)],
)
def test_of_a_wave_one_is_kept(policy: OnConflict, kept: str, is_contradiction: bool) -> None:
    wave = [of_paris("first", "Ann"), of_paris("then", "Bob"), of_paris("last", "Cy")]
    admission = admit(wave, Snapshot(0), policy)
    assert [edit.id for edit in admission.fresh] == [kept]
    assert len(admission.rejections) == 2
    for clash in admission.rejections:
        assert (clash.field, clash.is_contradiction) == ("target", is_contradiction)
        assert f"edit {kept} of this wave says" in clash.reason
    order = [wave.index(clash.edit) for clash in admission.rejections]
    assert order == sorted(order)


@pytest.mark.parametrize("gone", [Revoked("p1", 2), Superseded("p1", 2, "p2")])
def test_what_is_gone_is_known_and_stays_gone(paris: Snapshot, gone: Revoked | Superseded) -> None:
    later = Snapshot(2, fold(paris.state, [gone]))
    admission = admit([of_paris("p1", "Ann")], later)
    assert (len(admission.known), admission.fresh, admission.rejections) == (1, (), ())
    is_told = any("p1 is revoked in version 2 and stays so" in r for r in admission.remarks)
    assert is_told is (gone.kind == "revoked")
    other = replace(of_paris("p1", "Bob"), prompt="Else?", subject=None, metadata={})
    assert [clash.field for clash in admit([other], later).rejections] == ["id"]
    alone = Snapshot(3, fold(later.state, [Revoked("p2", 3)]))
    assert admit([of_paris("p4", "Bob")], alone).supersedes == {}


def test_an_edit_whose_time_is_over_is_not_taken() -> None:
    for until, is_late in [(MOMENT, True), (MOMENT + timedelta(seconds=1), False)]:
        for zone in (UTC, None):
            edit = Edit("e", "q", "t", valid_until=until.replace(tzinfo=zone))
            clashes = admit([edit], Snapshot(0), now=MOMENT).rejections
            assert [clash.field for clash in clashes] == ["valid_until"] * is_late


def test_the_reverse_of_an_edit_is_remarked(paris: Snapshot) -> None:
    back = Edit("back", "Which city has Ann as its mayor?", "Paris", subject="Ann")
    admission = admit([back], paris)
    assert admission.fresh == (back,)
    assert admission.remarks == tuple(f"edit back is the reverse of edit {e}" for e in ("p1", "p2"))
    assert admit([replace(back, target="Rome")], paris).remarks == ()


NOW = datetime(2026, 6, 1, tzinfo=UTC)


def years(target: str, start: int | None = None, end: int | None = None) -> Edit:
    """Who is mayor, from the first day of a year to that of another."""
    first, last = (None if y is None else datetime(y, 1, 1, tzinfo=UTC) for y in (start, end))
    edit = of_paris(f"{target}-{start}-{end}", target)
    return replace(edit, valid_from=first, valid_until=last)


def held(*edits: Edit) -> Snapshot:
    """A ledger with these, as of now."""
    wave = WaveCommit("w", "s", 0, "b" * 64, edits, as_of=NOW)
    return Snapshot(1, fold(State(), wave_events(wave, State(), 1, NOW)))


@pytest.mark.parametrize("policy", ["quarantine", "supersede", "refuse"])
def test_an_edit_of_a_later_year_contradicts_nobody(policy: OnConflict) -> None:
    """It takes the place of today's when it starts, and is not evaluated beside it."""
    admission = admit([years("Bob", 2031)], held(years("Ann")), policy, NOW)
    assert [edit.id for edit in admission.fresh] == ["Bob-2031-None"]
    assert (admission.rejections, admission.supersedes) == ((), {})
    assert admission.replaces == admission.succeeds == {"Ann-None-None": "Bob-2031-None"}
    assert [r.text for r in admission.remarked] == [
        "edit Bob-2031-None is valid from 2031-01-01T00:00:00+00:00 on: the first `scen expire` "
        "after that activates it"
    ]
    assert admission.as_of == NOW


def test_an_edit_of_today_contradicts_none_of_a_later_year() -> None:
    admission = admit([years("Ann")], held(years("Bob", 2031)), "supersede", NOW)
    assert (len(admission.fresh), admission.replaces) == (1, {})


def test_two_that_start_together_contradict_each_other() -> None:
    later = held(years("Bob", 2031))
    [clash] = admit([years("Cid", 2031)], later, now=NOW).contradictions
    assert "edit Bob-2031-None is committed with the same prompt" in clash.reason
    admission = admit([years("Cid", 2031)], later, "supersede", NOW)
    assert admission.supersedes == {"Bob-2031-None": "Cid-2031-None"}
    assert len(admit([years("Cid", 2032)], later, now=NOW).fresh) == 1
    overdue = held(years("Bob", 2031))  # its timer is late: it is as good as active
    at = datetime(2031, 2, 1, tzinfo=UTC)
    assert len(admit([years("Cid")], overdue, now=at).contradictions) == 1


@pytest.mark.parametrize(
    ("there", "new", "is_fresh"),
    [
        ((None, None), (2031, None), False),
        ((None, 2030), (2029, 2030), False),
        ((None, 2030), (2029, 2031), True),
        ((None, 2030), (2031, None), True),
        ((2031, None), (None, None), True),
        ((2031, None), (2032, None), False),
        ((2031, None), (2031, None), False),
    ],
)
def test_an_edit_already_valid_for_the_whole_period_is_a_repetition(
    there: tuple[int | None, int | None], new: tuple[int | None, int | None], is_fresh: bool
) -> None:
    edit = replace(years("Ann", *new), id="new")
    admission = admit([edit], held(years("Ann", *there)), now=NOW)
    assert bool(admission.fresh) == is_fresh
    assert [clash.field for clash in admission.rejections] == ([] if is_fresh else ["prompt"])


@pytest.mark.parametrize("policy", ["quarantine", "supersede"])
def test_of_one_wave_those_that_start_later_wait_for_a_wave_of_their_own(
    policy: OnConflict,
) -> None:
    edits = [years("Cid", 2032), years("Ann"), years("Bob", 2031)]
    admission = admit(edits, Snapshot(0), policy, NOW)
    assert [edit.target for edit in admission.fresh] == ["Ann"]
    assert [edit.target for edit in admission.later] == ["Cid", "Bob"]
    again = admit(admission.later, held(years("Ann")), policy, NOW)
    assert ([e.target for e in again.fresh], [e.target for e in again.later]) == (["Bob"], ["Cid"])
    assert len(admit([years("Bob", 2031), years("Cid", 2031)], Snapshot(0), policy, NOW).fresh) == 1


def test_a_hidden_character_hides_no_contradiction_with_the_ledger(paris: Snapshot) -> None:
    prompt = "Who is the mayor\u200b of Par\u00adis?"
    [clash] = admit([of_paris("new", "Carla", prompt)], paris).rejections
    assert clash.is_contradiction
    assert "same prompt but for U+200B ZERO WIDTH SPACE, U+00AD SOFT HYPHEN" in clash.reason
    other = Edit("new", "Who is the mayor of Paris\u2075?", "Carla")
    assert admit([other], paris).fresh == (other,)
