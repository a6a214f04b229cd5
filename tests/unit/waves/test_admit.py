"""Admission says of every edit what the ledger makes of it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from scen.records import Edit, Rephrase
from scen.registry.actions import WaveCommit, wave_events
from scen.registry.snapshot import Snapshot
from scen.registry.state import State, fold
from scen.waves.admit import admit

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
