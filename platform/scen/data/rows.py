"""Rows as read and as rejected, and edits as an Arrow table."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from scen.errors import InputError, ScenError
from scen.records import Edit, Rephrase

NO_NUMBER = "is NaN or infinite, which JSON cannot say"

# Missing values as pandas reads them (na_values) and MySQL, spreadsheets and Python write them.
# `Na` is sodium.
_NULL_WORDS = {"NA", "nan", "NaN", "NAN", "-nan", "-NaN", "NaT", "\\N", "1.#IND", "1.#QNAN"}
_NULL_WORDS |= {"-1.#IND", "-1.#QNAN"}
_NULL_FOLDED = {"null", "none", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "<null>", "(null)"}
_NULL_FOLDED |= {"[null]", "<none>", "#null!", "#value!", "#ref!", "#div/0!", "#name?", "#num!"}


class FieldError(ScenError, ValueError):
    """One field of one row is invalid. Becomes a `Rejection`, or the error of a request body."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.field} {self.reason}"


class Quoted(str):
    """A CSV cell in quotes that would be a missing value without them, such as "NA"."""


def is_null_text(text: str) -> bool:
    """True for text that programs write for a missing value or a failed formula."""
    word = text.strip()
    return word in _NULL_WORDS or word.casefold() in _NULL_FOLDED


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as read: `values`, or the `fault` that prevented reading it.

    `number` counts from 1: the line of a JSONL or CSV file, the record of a JSON list or Parquet
    file. `text` is the row's text in a text file. `fields` are the values under the names of the
    edit schema, converted from the format `origin`.
    """

    number: int
    values: dict[str, Any]
    text: str | None = None
    fault: FieldError | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    origin: str = "scen"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A rejected row: its first invalid field, and the reason. `field` is the name in the edit
    schema, or "row" if the row as a whole cannot be read.
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
    """The text with characters that UTF-8 cannot encode as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _as_json(values: dict[str, Any]) -> str:
    try:
        return json.dumps(values, ensure_ascii=False, default=repr)
    except RecursionError:
        return f"(nested too deeply to show; fields: {', '.join(values)})"


EDIT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("subject", pa.string()),
        pa.field("rephrases", pa.list_(pa.struct({"text": pa.string(), "source": pa.string()}))),
        pa.field("near_misses", pa.list_(pa.string())),
        pa.field("locality_prompts", pa.list_(pa.string())),
        pa.field("source", pa.string()),
        pa.field("author", pa.string()),
        pa.field("valid_from", pa.timestamp("us", tz="UTC")),
        pa.field("valid_until", pa.timestamp("us", tz="UTC")),
        pa.field("metadata", pa.map_(pa.string(), pa.string())),
    ]
)


def edits_to_table(edits: Iterable[Edit]) -> pa.Table:
    """Edits as one table of `EDIT_SCHEMA`."""
    columns: dict[str, list[object]] = {name: [] for name in EDIT_SCHEMA.names}
    for edit in edits:
        for name, values in columns.items():
            values.append(getattr(edit, name))
        columns["rephrases"][-1] = [{"text": r.text, "source": r.source} for r in edit.rephrases]
        columns["metadata"][-1] = list(edit.metadata.items())
    return pa.table(columns, schema=EDIT_SCHEMA)


def table_to_edits(table: pa.Table) -> list[Edit]:
    """The edits that `edits_to_table` wrote. Raises InputError for another schema."""
    if not table.schema.equals(EDIT_SCHEMA):
        raise InputError(
            f"table: has the columns {table.schema.names}, not those of EDIT_SCHEMA: "
            "read files of other shapes with ingest()"
        )
    return [_edit(row) for batch in table.to_batches() for row in batch.to_pylist()]


def _edit(row: dict[str, Any]) -> Edit:
    known = dict(row)
    known["rephrases"] = tuple(Rephrase(**r) for r in row["rephrases"] or ())
    known["near_misses"] = tuple(row["near_misses"] or ())
    known["locality_prompts"] = tuple(row["locality_prompts"] or ())
    known["metadata"] = dict(row["metadata"] or ())
    return Edit(**known)
