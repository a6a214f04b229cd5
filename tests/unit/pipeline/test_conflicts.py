"""Streams whose edits contradict what was said before: set aside, refused, or taking its place."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from scen.errors import InputError
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.stream import StreamStep, run_stream, settings
from scen.records import Edit
from scen.snapshot.load import Place

MakeParts = Callable[..., LocalParts]


def run(parts: LocalParts, edits: list[Edit]) -> list[StreamStep]:
    """All steps of a stream."""
    return list(run_stream("news", [edits], parts.store, parts.config, parts))


@pytest.fixture
def superseding(make_parts: MakeParts) -> LocalParts:
    """Parts that let newer edits take the place of older ones, in waves of two."""
    return make_parts(waves={"size": 2, "on_conflict": "supersede", "why": "news", "who": "ann"})


def chain(edit: Edit, targets: list[str]) -> list[Edit]:
    """One prompt, with one target after the other."""
    return [replace(edit, id=f"{edit.id}-{i}", target=t) for i, t in enumerate(targets)]


def test_the_last_of_a_chain_is_active_and_the_others_are_superseded(
    superseding: LocalParts, facts: list[Edit]
) -> None:
    parts, edits = superseding, chain(facts[0], ["north", "south", "east", "west", "isle"])
    steps = run(parts, [*edits, facts[1]])
    assert [[e.id for e in s.admission.fresh] for s in steps] == [
        ["edit-0-1"],
        ["edit-0-3"],
        ["edit-0-4", "edit-1"],
    ]
    assert [dict(s.admission.supersedes) for s in steps] == [
        {},
        {"edit-0-1": "edit-0-3"},
        {"edit-0-3": "edit-0-4"},
    ]
    assert [c.edit.id for s in steps for c in s.admission.rejections] == ["edit-0-0", "edit-0-2"]
    assert [s.report.evaluated["report"]["reliability"] for s in steps if s.report] == [1.0] * 3
    snapshot = parts.store.ledger.snapshot()
    assert snapshot.ids == ["edit-0-4", "edit-1"]
    log = parts.store.ledger.log()
    assert [entry.counts.get("superseded") for entry in log] == [None, 1, 1]
    assert {(entry.who, entry.why) for entry in log} == {("ann", "news")}
    again = run(parts, [*edits, facts[1]])
    assert [len(s.admission.fresh) for s in again] == [0, 0, 0]
    assert parts.store.ledger.version() == 3


def test_a_wave_is_measured_without_what_it_replaces(
    superseding: LocalParts, facts: list[Edit]
) -> None:
    """The older expert has the same key: beside it the newer one would not always be heard."""
    parts, (old, new) = superseding, chain(facts[0], ["north", "south"])
    run(parts, [old])
    asked: list[list[Place]] = []
    loader = parts.store.loader
    load = loader.load

    class Watched(type(loader)):  # type: ignore[misc]
        def load(self, places: list[Place], *more: object) -> object:
            asked.append(places)
            return load(places, *more)  # type: ignore[arg-type]

    watched = Watched(loader.base, loader.method, loader.router, loader.rows)
    parts = replace(parts, store=replace(parts.store, loader=watched))
    wave = Wave("news", 1, (new,), settings(parts.config, parts.store))
    trained = parts.train(wave)
    report = parts.evaluate(wave, trained)["report"]
    assert asked == [[Place(trained["bundle"], 0)]]
    assert report["reliability"] == 1.0


def test_paper_neurons_are_not_trained_against_replaced_edits(
    make_parts: MakeParts, facts: list[Edit]
) -> None:
    parts = make_parts("scen", waves={"size": 2, "on_conflict": "supersede"})
    old, new = chain(facts[0], ["north", "south"])
    run(parts, [old, facts[1]])
    wave = Wave("news", 1, (new,), settings(parts.config, parts.store))
    assert len(parts._history(wave)) == 1
    assert len(parts._history(replace(wave, edits=(facts[2],)))) == 2


def test_a_stream_ends_where_contradictions_are_refused(
    make_parts: MakeParts, facts: list[Edit]
) -> None:
    parts = make_parts(waves={"size": 2, "on_conflict": "refuse"})
    old, new = chain(facts[0], ["north", "south"])
    with pytest.raises(InputError, match=r"wave 1 of news: 1 of 2 edits .* edit-0-1: prompt: edit"):
        run(parts, [old, facts[1], facts[2], new])
    assert parts.store.ledger.snapshot().ids == ["edit-0-0", "edit-1"]
    with pytest.raises(InputError, match="edit edit-4-0 of this wave says 'north'"):
        run(parts, chain(facts[4], ["north", "south"]))
    assert parts.store.ledger.version() == 1


def test_a_newer_edit_takes_the_place_of_what_came_between(
    superseding: LocalParts, facts: list[Edit]
) -> None:
    """Committed by another run after this one was trained."""
    theirs, ours = chain(facts[0], ["north", "south"])
    wave = Wave("news", 0, (ours,), settings(superseding.config, superseding.store))
    trained = superseding.train(wave)
    evaluated = superseding.evaluate(wave, trained)
    list(run_stream("olds", [[theirs]], superseding.store, superseding.config, superseding))
    assert superseding.commit(wave, trained, evaluated) == 2
    assert superseding.store.ledger.snapshot().ids == [ours.id]
