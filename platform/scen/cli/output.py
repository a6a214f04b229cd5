"""Output: answers and tables to stdout, progress and warnings to stderr.

User text (prompts, answers, reasons, names) is printed with its control characters escaped: by
`escape` in tables and lines, and again by the consoles in everything they print.
"""

import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from scen.pipeline.runtime import Runtime

LINE_EVERY_S = 3.0
# C0 except tab and newline, DEL, C1; bidi marks, embeddings, overrides and isolates; line and
# paragraph separators; lone surrogates, which cannot be encoded.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape(text: str) -> str:
    """Text with control characters spelt out (\\x1b, \\u202e), so that it cannot control the
    terminal. Tabs and newlines are kept."""
    return _UNSAFE.sub(lambda match: _spelt_out(ord(match[0])), text)


def _spelt_out(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class SafeConsole(Console):
    """A console that escapes the control characters of all text it prints."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, with control characters of strings spelt out."""
        super().print(*(escape(o) if isinstance(o, str) else o for o in objects), **options)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            part if part.control else part._replace(text=escape(part.text)) for part in buffer
        )

    def on_broken_pipe(self) -> None:
        """Let the caller handle it: rich would exit with code 1."""
        raise BrokenPipeError


# No markup: paths and user text may contain brackets and colons.
out = SafeConsole(highlight=False, markup=False, emoji=False)
err = SafeConsole(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print a line of progress."""
    err.print(Text.assemble(("· ", "dim"), escape(text)), soft_wrap=True)


def line(text: str) -> None:
    """Print a line of the result, without wrapping."""
    out.print(text, soft_wrap=True)


def write_json(value: Any) -> None:
    """Print one JSON object to stdout."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    sys.stdout.write(_UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def write_error(text: str) -> None:
    """Print one line to stderr."""
    sys.stderr.write(escape(text).replace("\n", " ") + "\n")


def pass_on(text: str) -> None:
    """Print the log of a job to stderr, since it is progress, not a result."""
    sys.stderr.write(escape(text))
    sys.stderr.flush()


def show_warnings() -> None:
    """Show log messages from level warning on."""
    handler = RichHandler(console=err, show_time=False, show_path=False, show_level=True)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")


class StepProgress:
    """A progress bar per step (train, evaluate) of the current wave."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        """`done` more of `total` are done."""
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=total)
        self._progress.update(self._tasks[step], advance=done)

    def start_wave(self, name: str) -> None:
        """Start new bars for the next wave."""
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks = {}
        self._progress.console.print(Text.assemble(("· ", "dim"), escape(name)))


class LineProgress(StepProgress):
    """Progress as plain lines for a log: one every few seconds, and one at the end of a step."""

    def __init__(self, every_s: float = LINE_EVERY_S) -> None:
        self._every_s = every_s
        self._done: Counter[str] = Counter()
        self._shown_at: dict[str, float] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        """`done` more of `total` are done."""
        self._done[step] += done
        now = time.monotonic()
        is_due = now - self._shown_at.setdefault(step, now) >= self._every_s
        if is_due or self._done[step] >= total:
            self._shown_at[step] = now
            say(f"{step} {self._done[step]}/{total}")

    def start_wave(self, name: str) -> None:
        """Restart the counts for the next wave."""
        self._done.clear()
        self._shown_at.clear()
        say(name)


@contextmanager
def step_progress() -> Iterator[StepProgress]:
    """Progress bars on stderr, or lines if it is not a terminal."""
    if not err.is_terminal:
        yield LineProgress()
        return
    columns = (
        TextColumn("  {task.description:<9}"),
        BarColumn(bar_width=36),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) as progress:
        yield StepProgress(progress)


def local_runtime() -> "Runtime":
    """Work in this process, with progress on stderr."""
    from scen.pipeline.runtime import Runtime  # loads torch

    return Runtime(say=say, steps=step_progress)


def percent(value: float | None) -> str:
    """A share as a percentage, or a dash for None."""
    return "-" if value is None else f"{100 * value:.1f} %"


def shorten(text: str, width: int = 60) -> str:
    """The beginning of a text, on one line."""
    words = " ".join(text.split())
    return words if len(words) <= width else words[: width - 1] + "…"


def make_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    title: str | None = None,
    right: Iterable[str] = (),
    style: Sequence[str] = (),
) -> Table:
    """A table of user text: cells are escaped and may be long. Columns in `right` are figures;
    `style` has a style per row."""
    table = Table(title=title and Text(escape(title), "bold"), title_justify="left")
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left", overflow="fold")
    for place, row in enumerate(rows):
        table.add_row(*map(_cell, row), style=style[place] if style else None)
    return table


def figures_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]] = ()) -> Table:
    """Names on the left, figures on the right."""
    return make_table(heads, rows, title=title, right=heads[1:])


def facts_table(facts: Mapping[str, Any]) -> Table:
    """Names and values."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, _cell(str(value)))
    return table


def report_table(report: Mapping[str, Any], title: str) -> Table:
    """The figures of an evaluation, before and after the edits."""
    counts, teacher_forced = report["counts"], report["teacher_forced"]
    before = report["generality_before"]
    rows = [
        ("edits answered exactly", report["reliability_before"], report["reliability"],
         "reliability"),
        *((f"rephrases ({name})", before.get(name), value, f"generality_{name}")
          for name, value in report["generality"].items()),
        ("unrelated answers unchanged", None, report["locality_unchanged"], "locality"),
        ("unrouted logits bit-identical", None, report["logits_identical"], None),
        ("near misses unchanged", None, report["near_miss_unchanged"], "near_miss"),
        ("earlier edits still answered", None, report.get("retention"), "retention"),
        ("teacher-forced, edits", teacher_forced.get("reliability_before"),
         teacher_forced.get("reliability_after"), None),
        ("teacher-forced, rephrases", teacher_forced.get("generality_before"),
         teacher_forced.get("generality_after"), None),
    ]  # fmt: skip
    lines = (
        (name, percent(old), percent(new), str(counts[count]) if count else "")
        for name, old, new, count in rows
        if new is not None
    )
    return figures_table(title, ("measure", "before", "after", "probes"), lines)


def _cell(text: str | Text) -> Text:
    return text if isinstance(text, Text) else Text(escape(text))
