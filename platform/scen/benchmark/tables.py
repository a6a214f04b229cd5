"""Figures from outcomes of probes, and tables of them for the terminal, MLflow and Markdown."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scen.benchmark.settings import Row
from scen.evaluation.metrics import Outcome, group, mean, of_kind, share
from scen.evaluation.probes import ProbeKind

DECILES = 10
PUBLISHED = "orig"
"""The source of the rephrases that came with the data set."""
ASKED, ASKED_SAID, LEFT_ALONE = "asked/", "contained/asked/", "unchanged/"
"""Prefixes of figures by way of asking (exact answers; target within the answer) and by task."""
PORTABLE = "contained/portability/"
"""Prefix of the shares of answers that contain what follows from an edit, by kind of question."""
_UNEDITED: tuple[ProbeKind, ...] = ("near_miss", "locality")


def quality(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """All shares of a method, by name.

    `average` is the mean of reliability, published generality and unrelated locality, as in the
    paper (arXiv 2404.02699), as far as there are such probes.
    """
    prompts, rephrases = of_kind(outcomes, "reliability"), of_kind(outcomes, "generality")
    unedited = of_kind(outcomes, *_UNEDITED)
    figures = {"reliability": share(o.is_exact for o in prompts) or 0.0}
    for source, members in group(rephrases).items():
        figures[f"generality/{source}"] = fmean(o.is_exact for o in members)
    for source, members in group(unedited).items():
        figures[f"locality/{source}"] = fmean(o.is_unchanged for o in members)
    figures["logits_identical"] = share(bool(o.identical) for o in unedited) or 0.0
    for way, members in group(of_kind(outcomes, "asking")).items():
        figures[f"{ASKED}{way}"] = fmean(o.is_exact for o in members)
        figures[f"{ASKED_SAID}{way}"] = fmean(o.is_contained for o in members)
    for task, members in group(of_kind(outcomes, "task")).items():
        figures[f"{LEFT_ALONE}{task}"] = fmean(o.is_unchanged for o in members)
    for kind, members in group(of_kind(outcomes, "portability")).items():
        figures[f"{PORTABLE}{kind}"] = fmean(o.is_contained for o in members)
    for name, members in (("reliability", prompts), ("generality", rephrases)):
        if members:
            figures[f"teacher_forced/{name}"] = mean(o.forced_after for o in members) or 0.0
            figures[f"contained/{name}"] = fmean(o.is_contained for o in members)
    heads = ("reliability", f"generality/{PUBLISHED}", "locality/unrelated")
    return figures | {"average": fmean(figures[name] for name in heads if name in figures)}


def retention(outcomes: Sequence[Outcome], ages: Sequence[float]) -> list[float]:
    """Reliability by tenth of the stream, the oldest edits first. `ages` are the positions of the
    probes' edits in the stream, from 0 (oldest) to 1."""
    tenths: list[list[bool]] = [[] for _ in range(DECILES)]
    for outcome, age in zip(outcomes, ages, strict=True):
        if outcome.probe.kind == "reliability":
            tenths[min(int(age * DECILES), DECILES - 1)].append(outcome.is_exact)
    return [fmean(tenth) for tenth in tenths if tenth]


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """The number of probes behind each share."""
    kinds: tuple[tuple[str, tuple[ProbeKind, ...]], ...] = (
        ("generality/", ("generality",)),
        ("locality/", _UNEDITED),
        (ASKED, ("asking",)),
        (LEFT_ALONE, ("task",)),
        (PORTABLE, ("portability",)),
    )
    return {"reliability": len(of_kind(outcomes, "reliability"))} | {
        f"{prefix}{source}": len(members)
        for prefix, names in kinds
        for source, members in group(of_kind(outcomes, *names)).items()
    }


def percent(values: Mapping[str, float], name: str) -> str:
    """A share as text, in percent; empty if it is missing."""
    return f"{100 * values[name]:.1f}" if name in values else ""


Cell = Callable[[float], str]


@dataclass(frozen=True)
class Grid:
    """A table: its title, column heads, and cells by line."""

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
_PORTABILITY = (
    _Column("another name of the subject", f"{PORTABLE}alias", _percent),
    _Column("from target to subject", f"{PORTABLE}inverse", _percent),
    _Column("one hop further", f"{PORTABLE}one hop", _percent),
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
    """The tables of rows; columns that no row has are left out."""
    if any("reliability" in row.figures for row in rows):
        yield _grid("Exact free answers, greedy, after the last edit, %", _ANSWERS, rows)
        yield _retention(rows)
        yield _grid("Other ways to score the same, %", _OTHER, rows)
        if any(column.figure in row.figures for column in _PORTABILITY for row in rows):
            title = "What an edit brings along, consequence within the answer, %"
            yield _grid(title, _PORTABILITY, rows)
        yield _grid("What becomes of everything else, % (perplexity: no unit)", _UPSTREAM, rows)
        yield from _ways_of_asking(rows)
        yield _grid("What it costs", _COST, rows)
    else:
        yield _grid("Perplexity", _PASSAGES, rows)


def markdown(tables: Sequence[Grid]) -> str:
    """Tables as Markdown, each under its title."""
    parts = []
    for grid in tables:
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
    """Grids with a line per way of asking or task and a column per row; empty ones are left out."""
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
