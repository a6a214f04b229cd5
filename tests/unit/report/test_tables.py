"""A table as CSV and JSON."""

import csv
import json
import math
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest

from scen.report.tables import Column, Table

AT = datetime(2026, 11, 25, 8, 9, 10, tzinfo=UTC)
COLUMNS = (
    Column("name", "Name"),
    Column("said", "Said", "said"),
    Column("share", "Share", "share"),
    Column("count", "Count", "number"),
    Column("at", "When", "moment"),
)
ROWS: list[dict[str, Any]] = [
    {"name": "a<b", "said": "=1+1", "share": 0.5, "count": -3, "at": AT},
    {"name": None, "said": "", "share": math.nan, "count": None, "at": None},
    {"name": "ü", "said": "x" * 400, "share": None, "count": 2_000_000},
]
TABLE = Table("things", "Things", COLUMNS, ROWS)


def test_csv_opens_in_a_spreadsheet_and_runs_no_formula() -> None:
    data = TABLE.to_csv()
    assert data.startswith(b"\xef\xbb\xbf")
    head, *rows = csv.reader(StringIO(data.decode("utf-8-sig")))
    assert head == ["name", "said", "share", "count", "at"]
    assert rows[0] == ["a<b", "'=1+1", "0.5", "-3", AT.isoformat()]
    assert rows[1] == ["", "", "", "", ""]
    assert rows[2][:2] == ["ü", "x" * 400]


def test_json_keeps_every_text_unchanged_and_has_no_nan() -> None:
    rows = json.loads(TABLE.to_json(), parse_constant=pytest.fail)
    assert rows[0] == {"name": "a<b", "said": "=1+1", "share": 0.5, "count": -3,
                       "at": AT.isoformat()}  # fmt: skip
    assert rows[1]["share"] is None
    assert rows[2]["at"] is None


def test_pick() -> None:
    assert [c.name for c in TABLE.pick("count", "name").columns] == ["name", "count"]
