"""Near-duplicates are found before anything is trained, as the trained edits would collide."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from scen.errors import ConfigError
from scen.ledger.actions import WaveCommit, wave_events
from scen.ledger.state import Snapshot, fold
from scen.pipeline.admit import Admission, Remark, admit
from scen.pipeline.local import LocalParts
from scen.pipeline.near import Near, NearFinder, set_aside
from scen.pipeline.stream import StreamStep, run_stream
from scen.records import Edit
from scen.routing.explain import find_collisions
from scen.routing.neurons import KeyNeurons
from scen.snapshot.load import Place

MakeParts = Callable[..., LocalParts]
TOWN = Edit("town", "Who founded the old town?", "Ann")
OLDE = Edit("olde", "Who founded the olde town?", "Bob")
OTHER = Edit("other", "9999 zzz 31 - 4 qqq %", "Cy")
NEAR = {"router": {"threshold": 0.45}}  # the first two score 0.54, each with the third below 0.38


def run(parts: LocalParts, *edits: Edit) -> StreamStep:
    """One wave of a stream."""
    [step] = run_stream("news", [list(edits)], parts.store, parts.config, parts)
    return step


def found(parts: LocalParts, *edits: Edit) -> list[tuple[str, str]]:
    """Pairs of new edits and what they are near to, against the ledger as it is."""
    snapshot = parts.store.ledger.snapshot()
    admission = admit(edits, snapshot, "supersede")
    near = NearFinder(parts.store, parts.read_keys).find(admission, snapshot)
    return [(pair.edit.id, pair.other_id) for pair in near]


@pytest.fixture
def parts(make_parts: MakeParts) -> LocalParts:
    """Parts whose router takes similar prompts for the same."""
    return make_parts(**NEAR)


def test_new_edits_are_compared_with_each_other_and_with_the_active_ones(parts: LocalParts) -> None:
    assert found(parts) == found(parts, TOWN) == found(parts, TOWN, OTHER) == []
    assert found(parts, TOWN, OLDE, OTHER) == [("olde", "town")]
    assert found(parts, OLDE, OTHER, TOWN) == [("town", "olde")]
    run(parts, TOWN)
    assert found(parts, OLDE, OTHER) == [("olde", "town")]
    newer = Edit("newer", TOWN.prompt, "Eve")  # takes its place
    assert found(parts, newer) == []
    assert found(parts, newer, OLDE) == [("olde", "newer")]


def test_an_edit_that_is_committed_for_the_sake_of_argument_counts(parts: LocalParts) -> None:
    run(parts, OTHER)
    finder, before = NearFinder(parts.store, parts.read_keys), parts.store.ledger.snapshot()
    assert finder.find(admit([TOWN], before), before) == []
    wave = WaveCommit("w", "s", 0, "", [TOWN])
    state = fold(before.state, wave_events(wave, before.state, 2, datetime.now(UTC)))
    [pair] = finder.find(admit([OLDE], Snapshot(2, state)), Snapshot(2, state))
    assert (pair.edit, pair.other_id) == (OLDE, "town")


def test_it_is_what_will_collide_once_it_is_trained(parts: LocalParts) -> None:
    edits = [TOWN, OLDE, OTHER]
    snapshot = parts.store.ledger.snapshot()
    [told] = NearFinder(parts.store, parts.read_keys).find(admit(edits, snapshot), snapshot)
    step = run(parts, *edits)
    entries = parts.store.ledger.snapshot().entries
    places = [Place(entry.bundle, entry.row) for entry in entries]
    router = parts.store.loader.router
    assert router is not None
    codes = parts.store.loader.rows.codes(places, router.encoder)
    [pair] = find_collisions(KeyNeurons.of_codes(router, codes))
    assert (entries[pair.second].edit_id, entries[pair.first].edit_id) == ("olde", "town")
    assert told.score == pytest.approx(pair.score, abs=0.02)
    assert step.report is not None
    assert ("olde", "town") in [tuple(one) for one in step.report.evaluated["rivals"]]
    assert "edit olde also reaches edit town" in " ".join(step.report.remarks)


def test_what_is_near_is_set_aside_where_that_is_wanted(make_parts: MakeParts) -> None:
    parts = make_parts(waves={"on_collision": "quarantine"}, **NEAR)
    for known in (0, 2):  # a rerun comes to the same
        step = run(parts, TOWN, OLDE, OTHER)
        assert (len(step.admission.known), parts.store.ledger.version()) == (known, 1)
        [clash] = step.admission.rejections
        assert (clash.edit, clash.field, clash.is_contradiction) == (OLDE, "prompt", False)
        assert "also matches the prompt of edit olde to edit town" in clash.reason
    assert parts.store.ledger.snapshot().ids == ["town", "other"]


def test_only_what_stays_sets_aside() -> None:
    edits = {name: Edit(name, name, "t") for name in "abcd"}
    admission = Admission(
        tuple(edits.values()), (), (), {"x": "b", "y": "c"}, (Remark("b", "1"), Remark("c", "2"))
    )
    pairs = [("b", "a"), ("c", "b"), ("d", "c"), ("d", "a")]
    left = set_aside(admission, [Near(edits[new], other, 0.9) for new, other in pairs])
    assert [edit.id for edit in left.fresh] == ["a", "c"]
    assert [clash.edit.id for clash in left.rejections] == ["b", "d"]
    assert (left.supersedes, left.remarks) == ({"y": "c"}, ("2",))
    assert set_aside(admission, []) == admission


def test_neurons_of_the_paper_know_no_near_misses(make_parts: MakeParts) -> None:
    parts = make_parts("scen")
    assert found(parts, TOWN, OLDE) == []
    strict = make_parts("scen", waves={"on_collision": "quarantine"})
    with pytest.raises(ConfigError, match=r"waves\.on_collision: quarantine .* take report"):
        run(strict, TOWN)
    assert strict.store.storage.names("waves") == []
