"""Tables for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text


def percent(value: float | None) -> str:
    """A share as a percentage, or a dash where nothing was measured."""
    return "-" if value is None else f"{100 * value:.1f} %"


def report_table(report: Mapping[str, Any], title: str) -> Table:
    """The figures of an evaluation."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("measure")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("probes", justify="right")
    counts, forced = report["counts"], report["teacher_forced"]
    for name, before, after, count in (
        (
            "edits answered exactly",
            report["reliability_before"],
            report["reliability"],
            "reliability",
        ),
        *(
            (
                f"rephrases ({name})",
                report["generality_before"].get(name),
                value,
                f"generality_{name}",
            )
            for name, value in report["generality"].items()
        ),
        ("unrelated answers unchanged", None, report["locality_unchanged"], "locality"),
        ("unrouted logits bit-identical", None, report["logits_identical"], None),
        ("near misses unchanged", None, report["near_miss_unchanged"], "near_miss"),
        ("earlier edits still answered", None, report.get("retention"), "retention"),
        (
            "teacher-forced, edits",
            forced.get("reliability_before"),
            forced.get("reliability_after"),
            None,
        ),
        (
            "teacher-forced, rephrases",
            forced.get("generality_before"),
            forced.get("generality_after"),
            None,
        ),
    ):
        if after is not None:
            number = str(counts[count]) if count else ""
            table.add_row(name, percent(before), percent(after), number)
    return table


def asking_table(asking: Mapping[str, Mapping[str, float | None]]) -> Table:
    """Ways of asking, and where each goes; tasks about a question must reach no edit."""
    heads = ("way of asking", "own edit", "exact answer", "another edit", "asked")
    lines = (
        (
            way,
            percent(found["own_edit"]),
            percent(found["exact"]),
            percent(found["another_edit"]),
            f"{found['count']:g}",
        )
        for way, found in asking.items()
    )
    return figures_table("Ways of asking", heads, lines)


def answer_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Prompts with their answers before and after, and which edit spoke."""
    table = Table(title="Answers before and after", title_justify="left", title_style="bold")
    for name in ("prompt", "before", "after", "edit"):
        table.add_column(name, overflow="fold", max_width=46 if name == "prompt" else 30)
    for row in rows:
        changed = row["before"] != row["after"]
        after = Text(row["after"], style="bold green" if changed else "")
        table.add_row(
            Text(row["prompt"]), Text(shorten(row["before"])), after, row["routed_to"] or "none"
        )
    return table


def shorten(text: str, width: int = 60) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def log_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Commits, oldest first."""
    table = Table()
    for name in ("version", "committed", "action", "stream", "edits", "who", "why", "reliability"):
        table.add_column(name, overflow="fold")
    for entry in entries:
        start = entry["metadata"].get("scheduled_from")
        back = f" to {entry['to']}" if entry["to"] is not None else ""
        table.add_row(
            str(entry["version"]),
            str(entry["committed_at"])[:19],
            entry["action"] + back,
            entry["stream"],
            ", ".join(f"{count} {kind}" for kind, count in entry["counts"].items())
            + (f" (first valid from {start})" if start else ""),
            Text(entry["who"]),
            Text(entry["why"]),
            str(entry["metadata"].get("reliability", "-")),
        )
    return table


def figures_table(title: str, heads: Sequence[str], lines: Iterable[Sequence[str]] = ()) -> Table:
    """Cells by line: names on the left, figures on the right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place == 0 else "right")
    for line in lines:
        table.add_row(*line)
    return table


def facts_table(facts: Mapping[str, Any]) -> Table:
    """Names and values."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(str(value)))
    return table
