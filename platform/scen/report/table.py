"""Tables: rows of plain values, as CSV, as JSON and as HTML."""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from io import StringIO
from typing import Any, Literal

from scen.report.markup import Markup, clip, join, tag

Kind = Literal["text", "said", "number", "share", "moment"]
_CLIP = 300  # characters of a text on the page; the files hold the whole
_WIDE = 12  # more columns are printed smaller
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name in the files, its head on the page, and how its values are shown. `said`
    is what people or models wrote, with its line breaks."""

    name: str
    head: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """A table. `name` is that of its files; `rows` have a value, or None, for each column."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]

    def pick(self, *names: str) -> "Table":
        """The same with these columns only."""
        return replace(self, columns=tuple(c for c in self.columns if c.name in names))

    def to_csv(self) -> bytes:
        """The table for a spreadsheet: UTF-8 with its mark, and a `'` before a text that would be
        taken for a formula."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.name for column in self.columns])
        for row in self.rows:
            writer.writerow([_csv_cell(row.get(column.name)) for column in self.columns])
        return text.getvalue().encode("utf-8-sig", "replace")

    def to_json(self) -> bytes:
        """The table for a program: a list of objects, every text as it is."""
        rows = [{c.name: _plain(row.get(c.name)) for c in self.columns} for row in self.rows]
        return (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")

    def to_html(self, limit: int) -> Markup:
        """The first `limit` rows, in a frame that scrolls sideways where the page is narrow."""
        head = tag("tr", *(self._head(column) for column in self.columns))
        body = [tag("tr", *(_cell(row, c) for c in self.columns)) for row in self.rows[:limit]]
        parts = tag("caption", self.title), tag("thead", head), tag("tbody", *body)
        is_wide = len(self.columns) > _WIDE
        table = tag("table", *parts, class_="wide") if is_wide else tag("table", *parts)
        frame = tag(
            "div", table, class_="scroll", role="region", tabindex="0", aria_label=self.title
        )
        left = len(self.rows) - limit
        if left <= 0:
            return frame
        more = f"{left:,} more {'row is' if left == 1 else 'rows are'} in "
        link = tag("a", f"{self.name}.csv", href=f"{self.name}.csv")
        return join([frame, tag("p", more, link, ".", class_="note")])

    @staticmethod
    def _head(column: Column) -> Markup:
        return tag("th", column.head, scope="col", class_=column.kind)


def percent(share: float | None) -> str:
    """A share in percent; a dash where nothing was measured."""
    return "-" if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """A number with at most four digits, or all of a whole one; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) or value >= 1e4 else f"{value:.4g}"


def moment(value: datetime | None) -> str:
    """A moment to the second, in its own time zone (UTC in a ledger)."""
    return "-" if value is None else value.strftime("%Y-%m-%d %H:%M:%S")


_SHOW: Mapping[str, Callable[[Any], str]] = {
    "share": percent,
    "number": number,
    "moment": moment,
}


def _cell(row: Mapping[str, Any], column: Column) -> Markup:
    value = row.get(column.name)
    if isinstance(value, Markup):
        return tag("td", value, class_=column.kind)
    if column.kind == "said" and value == "":
        return tag("td", tag("i", "(empty)"), class_=column.kind)
    if column.kind in ("text", "said"):
        said = "-" if value in (None, "") else clip(str(value), _CLIP)
        return tag("td", said, class_=column.kind, dir="auto")
    return tag("td", _SHOW[column.kind](value), class_=column.kind)


def _csv_cell(value: Any) -> Any:
    plain = _plain(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if plain is None else plain


def _plain(value: Any) -> Any:
    """A value as JSON has it; what is not a number is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, datetime) else value
