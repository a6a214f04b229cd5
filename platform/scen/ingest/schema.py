"""The one Arrow schema of an edit, and the way there and back."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from scen.errors import InputError
from scen.records import Edit, Rephrase

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
    """The edits that `edits_to_table` wrote. Raises InputError when the schema is another one."""
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
