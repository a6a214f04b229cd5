"""Every edit of a store with its latest measurement."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scen.ledger.events import LedgerEntry
from scen.ledger.state import State
from scen.records import Edit
from scen.report.waves import Rows


class Answers:
    """What edits answered when they were last measured. Measurements are added in the order of
    their versions, and later ones replace earlier ones."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[str, Any]] = {}

    def add(self, version: int | None, rows: Rows) -> None:
        """The outcomes measured on a version (of a wave: the version that it made; None where the
        ledger does not have it)."""
        asked: Counter[tuple[str, str]] = Counter()
        hits: Counter[tuple[str, str]] = Counter()
        for row in rows:
            edit_id, kind = row["edit_id"], row["kind"]
            if edit_id is None:
                continue
            if kind in ("reliability", "retention"):
                answer = {name: row[name] for name in ("before", "after", "routed_to", "score")}
                answer |= {"exact": row["after"] == row["target"], "measured_at": version}
                self._of(edit_id).update(answer)
            elif kind in ("generality", "near_miss"):
                right = row["target"] if kind == "generality" else row["before"]
                asked[edit_id, kind] += 1
                hits[edit_id, kind] += row["after"] == right
        for (edit_id, kind), count in asked.items():
            name = "rephrases" if kind == "generality" else "near_misses"
            self._of(edit_id).update({name: count, f"{name}_right": hits[edit_id, kind]})

    def of(self, edit_id: str) -> Mapping[str, Any]:
        """What is known of an edit; empty where it was not measured."""
        return self._answers.get(edit_id, {})

    def _of(self, edit_id: str) -> dict[str, Any]:
        return self._answers.setdefault(edit_id, {})


def committed_rows(
    entries: Iterable[LedgerEntry], state: State, answers: Answers
) -> Iterator[dict[str, Any]]:
    """A row per edit of the ledger, active or not."""
    for entry in entries:
        status = "active" if state.is_active(entry.edit_id) else state.describe(entry.edit_id)
        place = {"stream": entry.stream, "wave": entry.wave, "version": entry.version}
        yield _row(entry.edit, answers) | place | {"status": status}


def held_rows(
    edits: Iterable[Edit], stream: str, wave: int, answers: Answers
) -> Iterator[dict[str, Any]]:
    """A row per edit of a wave that the gate holds."""
    for edit in edits:
        place = {"stream": stream, "wave": wave, "version": None, "status": "held"}
        yield _row(edit, answers) | place


def worst(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The active and held edits that are not answered exactly, or not by themselves, the worst
    first."""

    def rank(row: Mapping[str, Any]) -> tuple[bool, bool]:
        return row["exact"], row["routed_to"] == row["edit_id"]

    measured = [
        row for row in rows if row["status"] in ("active", "held") and row.get("exact") is not None
    ]
    return sorted((row for row in measured if rank(row) != (True, True)), key=rank)


def answered_by(row: Mapping[str, Any]) -> str:
    """Who answered an edit's prompt, in words."""
    if row["routed_to"] is None:
        return "the base"
    return "itself" if row["routed_to"] == row["edit_id"] else f"edit {row['routed_to']}"


def _row(edit: Edit, answers: Answers) -> dict[str, Any]:
    return {"edit_id": edit.id, "prompt": edit.prompt, "target": edit.target} | dict(
        answers.of(edit.id)
    )
