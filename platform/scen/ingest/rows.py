"""A row on its way through ingestion: as read, and as rejected."""

import json
from dataclasses import dataclass, field
from typing import Any

from scen.errors import ScenError


class FieldError(ScenError, ValueError):
    """One field of one row is wrong. Becomes a `Rejection`; never leaves this package."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as the file has it: `values`, or the `fault` that kept it from being read.

    `number` counts from 1: the line of a JSONL or CSV file, the record of a JSON list or Parquet
    file. `text` is the row as written, where the file is text. `fields` are the values under the
    names of the edit schema, found by way of the format `origin`.
    """

    number: int
    values: dict[str, Any]
    text: str | None = None
    fault: FieldError | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    origin: str = "scen"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that was not taken: the first field that is wrong, and why. `field` is the name in
    the edit schema, or "row" where the row as a whole cannot be read.
    """

    row: int
    id: str | None
    field: str
    reason: str
    raw: str


def reject(row: RawRow, error: FieldError) -> Rejection:
    """The rejection of a row, with text that can always be written as UTF-8."""
    name = row.fields.get("id")
    return Rejection(
        row=row.number,
        id=printable(name) if isinstance(name, str) else None,
        field=printable(error.field),
        reason=printable(error.reason),
        raw=printable(row.text if row.text is not None else _as_json(row.values)),
    )


def printable(text: str) -> str:
    """The text with what UTF-8 cannot hold written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _as_json(values: dict[str, Any]) -> str:
    try:
        return json.dumps(values, ensure_ascii=False, default=repr)
    except RecursionError:
        return f"(nested too deeply to show; fields: {', '.join(values)})"
