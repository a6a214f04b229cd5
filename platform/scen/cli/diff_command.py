"""`scen diff`: what is different between two versions."""

import argparse
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from scen.cli.output import out, say, write_json
from scen.cli.render import shorten
from scen.cli.settings import read_config
from scen.fs import Storage
from scen.ledger.events import LedgerEntry
from scen.ledger.ledger import open_ledger
from scen.ledger.state import Diff, Snapshot, diff_snapshots


def run(args: argparse.Namespace) -> None:
    """Compare two versions; with --answers on the base, else from the ledger alone."""
    ledger = open_ledger(Storage(args.store))
    before, after = ledger.snapshot(args.before), ledger.snapshot(args.after)
    found = diff_snapshots(before, after)
    told = describe(found) | {"before": before.version, "after": after.version}
    if args.answers:
        told["answers"] = _changed_answers(args, found, before, after)
    if args.json:
        write_json(told)
        return
    out.print(edit_table(found, f"Version {before.version} to {after.version}"))
    if args.answers:
        out.print(answer_table(told["answers"]))


def describe(diff: Diff) -> dict[str, Any]:
    """A difference as JSON types."""
    return {
        "added": [_facts(entry) for entry in diff.added],
        "removed": [_facts(entry) for entry in diff.removed],
        "replaced": [{"edit_id": older, "by": newer} for older, newer in diff.replaced],
    }


def _facts(entry: LedgerEntry) -> dict[str, Any]:
    edit = entry.edit
    return {
        "edit_id": edit.id,
        "prompt": edit.prompt,
        "target": edit.target,
        "stream": entry.stream,
    }


def _changed_answers(
    args: argparse.Namespace, diff: Diff, before: Snapshot, after: Snapshot
) -> list[dict[str, Any]]:
    """The prompts of the edits that came or went, whose answers are not the same."""
    from scen.snapshot.open import (
        open_store,  # loads torch, which the ledger's commands do not need
    )

    store = open_store(Storage(args.store), read_config(args).base, say)
    entries = [*diff.removed, *diff.added]
    prompts = list(dict.fromkeys(entry.edit.prompt for entry in entries))
    if not prompts:
        return []
    models = [store.at(snapshot) for snapshot in (before, after)]
    said = [[model.ask(p, args.max_new_tokens).answer for p in prompts] for model in models]
    return [
        {"prompt": prompt, "before": old, "after": new}
        for prompt, old, new in zip(prompts, *said, strict=True)
        if old != new
    ]


def edit_table(diff: Diff, title: str) -> Table:
    """What came and went."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("", "edit", "prompt", "target", "replaced by"):
        table.add_column(name, overflow="fold")
    replaced = dict(diff.replaced)
    _add_rows(table, "-", diff.removed, replaced)
    _add_rows(table, "+", diff.added, {})
    if not table.row_count:
        table.add_row("", "the same edits are active in both")
    return table


def _add_rows(
    table: Table, sign: str, entries: Sequence[LedgerEntry], replaced: dict[str, str]
) -> None:
    for entry in entries:
        edit = entry.edit
        cells = [sign, edit.id, shorten(edit.prompt), shorten(edit.target)]
        table.add_row(*map(Text, (*cells, replaced.get(edit.id, ""))))


def answer_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The answers that change."""
    title = f"{len(rows)} answers change"
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("prompt", "before", "after"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shorten(row[name])) for name in ("prompt", "before", "after")))
    return table
