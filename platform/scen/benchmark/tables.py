"""Figures from probe results, and tables of figures for the terminal, MLflow and Markdown."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scen.benchmark.ask import ProbeAnswer
from scen.benchmark.settings import Row
from scen.evaluation.probes import Probe

DECILES = 10
PUBLISHED = "orig"
"""The source of the rephrases that came with the data set."""
ASKED, ASKED_SAID, LEFT_ALONE = "asked/", "contained/asked/", "unchanged/"
"""Prefixes of figures by way of asking (exact answers; target within the answer) and by task."""
PORTABLE = "contained/portability/"
"""Prefix of the shares of answers that contain what follows from an edit, by kind of question."""


@dataclass(frozen=True)
class ProbeResult:
    """A probe, the base's answer (None for probes with a target, where it is not needed) and the
    method's; `age` is the position of its edit in the stream, from 0 (oldest) to 1."""

    probe: Probe
    before: ProbeAnswer | None
    after: ProbeAnswer
    age: float = 0.0

    @property
    def is_exact(self) -> bool:
        """True if the answer equals the target exactly."""
        return self.after.text == self.probe.target

    @property
    def is_contained(self) -> bool:
        """True if the answer contains the target, ignoring case."""
        return (self.probe.target or "").casefold() in self.after.text.casefold()

    @property
    def is_unchanged(self) -> bool:
        """True if the answer equals the base's."""
        return self.before is not None and self.after.text == self.before.text

    @property
    def is_identical(self) -> bool:
        """True if the logits of the answer are bit-identical to the base's."""
        return self.before is not None and self.after.digest == self.before.digest


def quality(results: Sequence[ProbeResult]) -> dict[str, float]:
    """All shares of a method, by name.

    `average` is the mean of reliability, published generality and unrelated locality, as in the
    paper (arXiv 2404.02699), as far as there are such probes.
    """
    prompts = [a for a in results if a.probe.kind == "reliability"]
    rephrases = [a for a in results if a.probe.kind == "generality"]
    unedited = _by_source([a for a in results if a.probe.kind in ("near_miss", "locality")])
    figures = {"reliability": share(a.is_exact for a in prompts)}
    for source, group in _by_source(rephrases).items():
        figures[f"generality/{source}"] = share(a.is_exact for a in group)
    for source, group in unedited.items():
        figures[f"locality/{source}"] = share(a.is_unchanged for a in group)
    figures["logits_identical"] = share(
        a.is_identical for group in unedited.values() for a in group
    )
    for way, group in _by_source([a for a in results if a.probe.kind == "asking"]).items():
        figures[f"{ASKED}{way}"] = share(a.is_exact for a in group)
        figures[f"{ASKED_SAID}{way}"] = share(a.is_contained for a in group)
    for task, group in _by_source([a for a in results if a.probe.kind == "task"]).items():
        figures[f"{LEFT_ALONE}{task}"] = share(a.is_unchanged for a in group)
    for kind, group in _by_source([a for a in results if a.probe.kind == "portability"]).items():
        figures[f"{PORTABLE}{kind}"] = share(a.is_contained for a in group)
    for name, group in (("reliability", prompts), ("generality", rephrases)):
        if group:
            figures[f"teacher_forced/{name}"] = fmean(a.after.teacher_forced or 0.0 for a in group)
            figures[f"contained/{name}"] = share(a.is_contained for a in group)
    heads = ("reliability", f"generality/{PUBLISHED}", "locality/unrelated")
    figures["average"] = fmean(figures[name] for name in heads if name in figures)
    figures["extra_tokens"] = fmean(a.after.extra_tokens for a in results)
    return figures


def retention(results: Sequence[ProbeResult]) -> list[float]:
    """Reliability by tenth of the stream, the oldest edits first."""
    tenths: list[list[bool]] = [[] for _ in range(DECILES)]
    for a in results:
        if a.probe.kind == "reliability":
            tenths[min(int(a.age * DECILES), DECILES - 1)].append(a.is_exact)
    return [share(tenth) for tenth in tenths if tenth]


def counts(results: Sequence[ProbeResult]) -> dict[str, int]:
    """The number of probes behind each share."""
    groups = _by_source([a for a in results if a.probe.kind == "generality"])
    unedited = _by_source([a for a in results if a.probe.kind in ("near_miss", "locality")])
    ways = _by_source([a for a in results if a.probe.kind == "asking"])
    tasks = _by_source([a for a in results if a.probe.kind == "task"])
    portable = _by_source([a for a in results if a.probe.kind == "portability"])
    return {
        "reliability": sum(a.probe.kind == "reliability" for a in results),
        **{f"generality/{source}": len(group) for source, group in groups.items()},
        **{f"locality/{source}": len(group) for source, group in unedited.items()},
        **{f"{ASKED}{way}": len(group) for way, group in ways.items()},
        **{f"{LEFT_ALONE}{task}": len(group) for task, group in tasks.items()},
        **{f"{PORTABLE}{kind}": len(group) for kind, group in portable.items()},
    }


def share(hits: Iterable[bool]) -> float:
    """The share of True; 0 if there is nothing to count."""
    values = list(hits)
    return sum(values) / len(values) if values else 0.0


def percent(values: Mapping[str, float], name: str) -> str:
    """A share as text, in percent; empty if it is missing."""
    return f"{100 * values[name]:.1f}" if name in values else ""


def _by_source(results: Sequence[ProbeResult]) -> dict[str, list[ProbeResult]]:
    groups: dict[str, list[ProbeResult]] = {}
    for a in results:
        groups.setdefault(a.probe.source, []).append(a)
    return groups


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
