"""Rows as the tables that people read: in the terminal, in MLflow and in a README."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from scen.benchmark.figures import ASKED, ASKED_SAID, LEFT_ALONE, PUBLISHED, percent
from scen.benchmark.material import Row

Cell = Callable[[float], str]


@dataclass(frozen=True)
class Grid:
    """A table: what it tells, the heads of its columns, and its cells by line."""

    title: str
    heads: list[str]
    lines: list[list[str]]


@dataclass(frozen=True)
class _Column:
    head: str
    figure: str
    cell: Cell


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _seconds(value: float) -> str:
    return f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _kilobytes(value: float) -> str:
    return f"{value / 1000:,.1f}"


_ANSWERS = (
    _Column("edits", "reliability", _percent),
    _Column("rephrases, data set", f"generality/{PUBLISHED}", _percent),
    _Column("rephrases, templates", "generality/template", _percent),
    _Column("other questions about the fact", "generality/sibling", _percent),
    _Column("unrelated", "locality/unrelated", _percent),
    _Column("same kind, unseen", "locality/same kind", _percent),
    _Column("same subject", "locality/same subject", _percent),
    _Column("average", "average", _percent),
)
_OTHER = (
    _Column("edits, beam", "beam/reliability", _percent),
    _Column("rephrases, beam", f"beam/generality/{PUBLISHED}", _percent),
    _Column("edits, teacher-forced", "teacher_forced/reliability", _percent),
    _Column("rephrases, teacher-forced", "teacher_forced/generality", _percent),
    _Column("edits, target within the answer", "contained/reliability", _percent),
    _Column("rephrases, target within", "contained/generality", _percent),
)
_UPSTREAM = (
    _Column("logits bit-identical", "logits_identical", _percent),
    _Column("prose, perplexity", "upstream/perplexity", _ratio),
    _Column("cloze, true ending likelier", "upstream/cloze", _percent),
    _Column("prose and clozes, bit-identical", "upstream/identical", _percent),
)
_COST = (
    _Column("s per edit", "seconds_per_edit", _seconds),
    _Column("KB per edit", "bytes_per_edit", _kilobytes),
    _Column("s, edited question", "latency_edited", _seconds),
    _Column("s, unrelated question", "latency_unrelated", _seconds),
    _Column("extra prompt tokens", "extra_tokens", _ratio),
)
_PASSAGES = (
    _Column("edited sentences", "perplexity/edited", _ratio),
    _Column("accurate, same people", "perplexity/near", _ratio),
    _Column("unrelated prose", "perplexity/unrelated", _ratio),
    _Column("accurate, bit-identical %", "identical/near", _percent),
    _Column("unrelated, bit-identical %", "identical/unrelated", _percent),
    _Column("s per edit", "seconds_per_edit", _seconds),
    _Column("KB per edit", "bytes_per_edit", _kilobytes),
)


def grids(rows: Sequence[Row]) -> Iterator[Grid]:
    """The tables of some rows; columns that nobody has are left out."""
    if any("reliability" in row.figures for row in rows):
        yield _grid("Exact free answers, greedy, after the last edit, %", _ANSWERS, rows)
        yield _retention(rows)
        yield _grid("Other ways to score the same, %", _OTHER, rows)
        yield _grid("What becomes of everything else, % (perplexity: no unit)", _UPSTREAM, rows)
        yield from _ways_of_asking(rows)
        yield _grid("What it costs", _COST, rows)
    else:
        yield _grid("Perplexity", _PASSAGES, rows)


def markdown(found: Sequence[Grid]) -> str:
    """Tables as Markdown, each under its title."""
    parts = []
    for grid in found:
        rule = ["---"] + ["---:"] * (len(grid.heads) - 1)
        lines = [grid.heads, rule, *grid.lines]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"{grid.title}:\n\n{table}\n")
    return "\n".join(parts)


def _grid(title: str, columns: Sequence[_Column], rows: Sequence[Row]) -> Grid:
    shown = [c for c in columns if any(c.figure in row.figures for row in rows)]
    lines = [[*_head(row, rows), *(_cell(row, column) for column in shown)] for row in rows]
    return Grid(title, [*_names(rows), *(column.head for column in shown)], lines)


def _cell(row: Row, column: _Column) -> str:
    return column.cell(row.figures[column.figure]) if column.figure in row.figures else ""


def _retention(rows: Sequence[Row]) -> Grid:
    """Reliability by tenth of the stream."""
    most = max(len(row.retention) for row in rows)
    heads = [*_names(rows), "oldest", *map(str, range(2, most)), "newest"][
        : len(_names(rows)) + most
    ]
    lines = [[*_head(row, rows), *map(_percent, row.retention)] for row in rows]
    return Grid("Edits answered exactly, by tenth of the stream, %", heads, lines)


def _ways_of_asking(rows: Sequence[Row]) -> Iterator[Grid]:
    """A line per way of asking or task, a column per method; nothing where none was asked."""
    for title, prefix in (
        ("Edits asked in other ways, exact answers, %", ASKED),
        ("Edits asked in other ways, target within the answer, %", ASKED_SAID),
        ("Tasks about an edit's question or subject, answered as by the base, %", LEFT_ALONE),
    ):
        names = list(dict.fromkeys(f for row in rows for f in row.figures if f.startswith(prefix)))
        heads = ["way of asking", *(" ".join(_head(row, rows)) for row in rows)]
        lines = [
            [name.removeprefix(prefix), *(percent(row.figures, name) for row in rows)]
            for name in names
        ]
        if lines:
            yield Grid(title, heads, lines)


def _names(rows: Sequence[Row]) -> list[str]:
    return ["method", "T"] if len({row.size for row in rows}) > 1 else ["method"]


def _head(row: Row, rows: Sequence[Row]) -> list[str]:
    return [row.method, str(row.size)] if len(_names(rows)) > 1 else [row.method]
