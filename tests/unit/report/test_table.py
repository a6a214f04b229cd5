"""A table as CSV, JSON and HTML."""

import csv
import json
import math
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest

from scen.report.markup import tag
from scen.report.table import Column, Table, number, percent

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


def test_json_has_every_text_as_it_is_and_no_nan() -> None:
    rows = json.loads(TABLE.to_json(), parse_constant=pytest.fail)
    assert rows[0] == {"name": "a<b", "said": "=1+1", "share": 0.5, "count": -3,
                       "at": AT.isoformat()}  # fmt: skip
    assert rows[1]["share"] is None
    assert rows[2]["at"] is None


def test_html_shows_values_by_kind() -> None:
    page = TABLE.to_html(3)
    for cell in (
        '<td class="text" dir="auto">a&lt;b</td>',
        '<td class="share">50.0 %</td>',
        '<td class="number">-3</td>',
        '<td class="moment">2026-11-25 08:09:10</td>',
        '<td class="said"><i>(empty)</i></td>',
        '<td class="number">2,000,000</td>',
        f'<td class="said" dir="auto">{"x" * 299}…</td>',
    ):
        assert cell in page
    assert page.count('scope="col"') == len(COLUMNS)
    assert "more" not in page


@pytest.mark.parametrize(("limit", "words"), [(2, "1 more row is in "), (1, "2 more rows are in ")])
def test_rows_over_the_limit_are_in_the_file(limit: int, words: str) -> None:
    page = TABLE.to_html(limit)
    assert page.count("<tr>") == 1 + limit
    assert f'{words}<a href="things.csv">things.csv</a>' in page


def test_a_cell_may_be_markup() -> None:
    table = Table("t", "T", COLUMNS[:1], [{"name": tag("a", "x", href="#y")}])
    assert '<td class="text"><a href="#y">x</a></td>' in table.to_html(1)


def test_pick() -> None:
    assert [c.name for c in TABLE.pick("count", "name").columns] == ["name", "count"]


def test_numbers() -> None:
    assert [number(v) for v in (None, 3, 0.123456, 12345.6)] == ["-", "3", "0.1235", "12,345.6"]
    assert [percent(v) for v in (None, 0.0, 1.0)] == ["-", "0.0 %", "100.0 %"]
