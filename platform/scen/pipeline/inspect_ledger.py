"""What the ledger says of an edit, and of two versions side by side."""

from collections.abc import Sequence
from typing import Any

from scen.ledger.events import LedgerEntry, Superseded
from scen.ledger.ledger import Ledger
from scen.ledger.state import Diff, Snapshot
from scen.records import edit_to_dict
from scen.snapshot.open import OpenStore


def edit_facts(ledger: Ledger, edit_id: str) -> dict[str, Any]:
    """An edit as JSON types, with its place and its `history`. Raises NotFoundError."""
    history = edit_history(ledger, edit_id)
    state = ledger.snapshot().state
    entry = state.entries[edit_id]
    return edit_to_dict(entry.edit) | {
        "status": state.describe(edit_id),
        "active_since": active_since(history),
        "version": entry.version,
        "committed_at": entry.committed_at.isoformat(timespec="seconds"),
        "stream": entry.stream,
        "wave": entry.wave_key,
        "bundle": entry.bundle,
        "row": entry.row,
        "history": history,
    }


def edit_history(ledger: Ledger, edit_id: str) -> list[dict[str, Any]]:
    """Everything that happened to an edit, oldest first. Raises NotFoundError."""
    return [
        {
            "version": event.version,
            "event": event.kind,
            "by": event.by if isinstance(event, Superseded) else None,
            "at": commit.committed_at.isoformat(timespec="seconds"),
            "who": commit.who,
            "why": commit.why,
        }
        for event, commit in ledger.history(edit_id)
    ]


def active_since(history: list[dict[str, Any]]) -> str | None:
    """When an edit became active last; None where it is not active."""
    since = None
    for row in history:
        since = row["at"] if row["event"] in ("committed", "activated", "restored") else None
    return since


def diff_facts(diff: Diff) -> dict[str, Any]:
    """A difference as JSON types."""
    return {
        "added": [_facts(entry) for entry in diff.added],
        "removed": [_facts(entry) for entry in diff.removed],
        "replaced": [{"edit_id": older, "by": newer} for older, newer in diff.replaced],
    }


def changed_answers(
    store: OpenStore, diff: Diff, versions: Sequence[Snapshot], max_new_tokens: int
) -> list[dict[str, Any]]:
    """The prompts of the edits that differ, where two versions do not answer the same."""
    entries = [*diff.removed, *diff.added]
    prompts = list(dict.fromkeys(entry.edit.prompt for entry in entries))
    models = [store.at(snapshot) for snapshot in versions] if prompts else []
    answers = [[model.ask(p, max_new_tokens).answer for p in prompts] for model in models]
    return [
        {"prompt": prompt, "before": before, "after": after}
        for prompt, before, after in zip(prompts, *answers, strict=True)
        if before != after
    ] if prompts else []  # fmt: skip


def _facts(entry: LedgerEntry) -> dict[str, Any]:
    edit = entry.edit
    return {
        "edit_id": edit.id,
        "prompt": edit.prompt,
        "target": edit.target,
        "stream": entry.stream,
    }
