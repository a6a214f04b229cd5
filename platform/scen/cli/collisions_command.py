"""`scen collisions`: pairs of edits whose prompts the router confuses."""

import argparse
from typing import Any

from rich.table import Table
from rich.text import Text

from scen.cli.output import out, say, step_progress, write_json
from scen.cli.render import shorten
from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.ledger.state import Snapshot
from scen.model.surface import bare_form
from scen.routing.explain import Collision, find_collisions
from scen.routing.neurons import KeyNeurons
from scen.snapshot.load import BundleRows, Place
from scen.snapshot.open import stored_router


def run(args: argparse.Namespace) -> None:
    """List the pairs; needs the store alone, no base."""
    storage = Storage(args.store)
    ledger = open_ledger(storage)
    router = stored_router(storage, ledger)
    if router is None:
        raise ConfigError(
            "--store: the neurons of method scen know no near misses, so they cannot be compared; "
            "collisions are those of method scen-lr"
        )
    snapshot = ledger.snapshot(args.version)
    found: list[Collision] = []
    if len(snapshot.entries) > 1:
        places = [Place(entry.bundle, entry.row) for entry in snapshot.entries]
        say(f"comparing {len(places)} edits")
        texts = [bare_form(entry.edit.prompt) for entry in snapshot.entries]
        key_EKF = BundleRows(storage).read(places, ("key",))["key"]
        neurons = KeyNeurons.build(router, key_EKF, texts)
        with step_progress() as bars:
            found = find_collisions(
                neurons,
                args.margin,
                args.limit,
                progress=lambda done: bars("compare", done, len(places)),
            )
    rows = [_row(pair, snapshot) for pair in found]
    if args.json:
        write_json({"threshold": router.threshold, "version": snapshot.version, "pairs": rows})
    elif rows:
        out.print(_table(rows, router.threshold))
        out.print(
            "Drop or reword one of a pair; or give either the other's question as a near miss, "
            "calibrate again (scen calibrate) and make a new store with that profile."
        )
    else:
        out.print(f"No pair of the {len(snapshot.entries)} edits is confused.")


def _row(pair: Collision, snapshot: Snapshot) -> dict[str, Any]:
    first, second = (snapshot.entries[i].edit for i in (pair.first, pair.second))
    return {
        "score": round(pair.score, 4),
        "above": pair.is_above,
        "first": {"edit_id": first.id, "prompt": first.prompt, "target": first.target},
        "second": {"edit_id": second.id, "prompt": second.prompt, "target": second.target},
        "similarities": {name: round(value, 3) for name, value in pair.similarities.items()},
    }


def _table(rows: list[dict[str, Any]], threshold: float) -> Table:
    """Pairs, the worst first; those above the threshold in red."""
    title = f"Edits that may answer for each other (threshold {threshold:.4g})"
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("score", "edit", "its prompt", "other edit", "its prompt"):
        table.add_column(name, justify="right" if name == "score" else "left", overflow="fold")
    for row in rows:
        style = "red" if row["above"] else ""
        cells = [f"{row['score']:.2f}"]
        for side in ("first", "second"):
            cells += [row[side]["edit_id"], shorten(row[side]["prompt"], 44)]
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table
