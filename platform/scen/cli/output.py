"""Where words go: answers and tables to stdout, progress and warnings to stderr."""

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

# No markup: paths and what people wrote may have brackets and colons in them.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False)
LINE_EVERY_S = 3.0


def say(text: str) -> None:
    """Tell a person what is being done."""
    err.print(Text.assemble(("· ", "dim"), text), soft_wrap=True)


def write_json(value: Any) -> None:
    """One JSON object on stdout, for machines."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def show_warnings() -> None:
    """Let the platform's own warnings through, and quiet the libraries below it."""
    handler = RichHandler(console=err, show_time=False, show_path=False, show_level=True)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")


class StepProgress:
    """A bar per step (train, evaluate) of the wave that is running."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        """`done` more of `total` are through."""
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=total)
        self._progress.update(self._tasks[step], advance=done)

    def start_wave(self, name: str) -> None:
        """New bars, for another wave."""
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks = {}
        self._progress.console.print(Text.assemble(("· ", "dim"), name))


class LineProgress(StepProgress):
    """The same as plain lines, for a log: one every few seconds, and one at the end of a step."""

    def __init__(self, every_s: float = LINE_EVERY_S) -> None:
        self._every_s = every_s
        self._done: Counter[str] = Counter()
        self._told_at: dict[str, float] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        """`done` more of `total` are through."""
        self._done[step] += done
        now = time.monotonic()
        is_due = now - self._told_at.setdefault(step, now) >= self._every_s
        if is_due or self._done[step] >= total:
            self._told_at[step] = now
            say(f"{step} {self._done[step]}/{total}")

    def start_wave(self, name: str) -> None:
        """Count from nothing, for another wave."""
        self._done.clear()
        self._told_at.clear()
        say(name)


@contextmanager
def step_progress() -> Iterator[StepProgress]:
    """Bars on stderr while something long runs; lines where that is no terminal."""
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
