"""Rows in memory are checked as the rows of a file are."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from scen.errors import InputError
from scen.ingest import Rejection, Validator, ingest
from scen.ingest.read_memory import describe_source, digest_source
from scen.records import Edit, Rephrase

Load = Callable[..., tuple[list[Edit], list[Rejection]]]
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Who is a?", "target": "Ann", "rephrases": ["A is who?"], "page": 7},
    {"src": "Who is b?", "alt": "Bob", "rephrase": "B is who?"},
    {"prompt": "Who is c?"},
]


def test_they_come_out_as_from_a_file(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    edits, rejections = load(file)
    again, also = load(ROWS)
    assert again == edits
    assert [(row.row, row.field, row.reason) for row in also] == [
        (row.row, row.field, row.reason) for row in rejections
    ]
    assert (edits[0].metadata, edits[1].target) == ({"page": "7"}, "Bob")


def test_edits_come_out_as_they_are() -> None:
    edit = Edit(
        "a",
        "Who is a?",
        "Ann",
        rephrases=(Rephrase("A is who?", "mine"),),
        near_misses=("Where is a?",),
        valid_until=datetime(2999, 1, 1, tzinfo=UTC),
        metadata={"page": "7"},
    )
    (batch,) = ingest([edit], Validator())
    assert (batch.edits, batch.rows) == ((edit,), (1,))


def test_what_is_no_row_is_rejected_and_costs_no_other_row() -> None:
    (batch,) = ingest([7, ROWS[0]], Validator())  # type: ignore[list-item]
    assert (batch.rejections[0].field, batch.rejections[0].raw) == ("row", "7")
    assert (batch.edits[0].id, batch.rows) == ("a", (2,))
    with pytest.raises(InputError, match="2 rows: 1 of 2 rows are bad"):
        ingest([7, ROWS[0]], Validator(), strict=True)  # type: ignore[list-item]


def test_rows_are_named_by_their_content() -> None:
    same = dict(reversed(ROWS[0].items()))
    assert digest_source(ROWS[:1]) == digest_source([same])
    assert digest_source(ROWS[:1]) != digest_source(ROWS[:2])
    assert digest_source([7]) != digest_source([8])  # type: ignore[list-item]
    assert (describe_source(ROWS), describe_source("x.csv")) == ("3 rows", "x.csv")
