"""Admission against the ledger: what of a wave is new, known already, or in contradiction."""

from collections.abc import Sequence
from dataclasses import dataclass

from scen.records import Edit, normalise
from scen.registry.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Clash:
    """An edit that cannot be added to what is committed, and why."""

    edit: Edit
    field: str
    reason: str


@dataclass(frozen=True)
class Admission:
    """`fresh` edits are new; `known` ones are committed already, letter for letter."""

    fresh: tuple[Edit, ...]
    known: tuple[Edit, ...]
    rejections: tuple[Clash, ...]


def admit(edits: Sequence[Edit], snapshot: Snapshot) -> Admission:
    """Sort edits by what the ledger says of them. Nothing is dropped silently."""
    by_id = {entry.edit_id: entry.edit for entry in snapshot.entries}
    by_prompt = {normalise(entry.edit.prompt): entry.edit for entry in snapshot.entries}
    fresh, known, clashes = [], [], []
    for edit in edits:
        same_id, same_prompt = by_id.get(edit.id), by_prompt.get(normalise(edit.prompt))
        if same_id is not None and same_id.digest == edit.digest:
            known.append(edit)
        elif same_id is not None:
            reason = "this id is committed with other content: give the new edit its own id"
            clashes.append(Clash(edit, "id", reason))
        elif same_prompt is not None:
            clashes.append(Clash(edit, "prompt", _prompt_reason(edit, same_prompt)))
        else:
            fresh.append(edit)
    return Admission(tuple(fresh), tuple(known), tuple(clashes))


def _prompt_reason(edit: Edit, committed: Edit) -> str:
    if committed.target == edit.target:
        return f"edit {committed.id} is committed with the same prompt and target: drop this one"
    return (
        f"edit {committed.id} is committed with the same prompt and the target "
        f"{committed.target!r}: drop one of the two"
    )
