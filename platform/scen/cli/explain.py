"""Words for why a prompt was routed as it was."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from scen.cli.render import shorten


def reason(candidates: Sequence[dict[str, Any]], threshold: float) -> str:
    """Why it was routed, or was not, in one sentence."""
    if not candidates:
        return "no edit is active, so the base answers"
    first = candidates[0]
    side = "above" if first["score"] > threshold else "not above"
    who = "it answers" if first["score"] > threshold else "the base answers"
    asked = f" for {shorten(first['span'])!r}" if first["span"] else ""
    return (
        f"the likeliest edit, {first['edit_id']}, scores {first['score']:.4g}{asked}, {side} the "
        f"threshold {threshold:.4g}: {who}"
    )


def candidate_table(candidates: Sequence[dict[str, Any]], threshold: float) -> Table:
    """Candidates as rows; those above the threshold in green. Of each place the mean similarity:
    all of its views are too many for a terminal."""
    about = "Candidates, and how near their keys are (each view: --json)"
    table = Table(title=about, title_justify="left", title_style="bold", box=SIMPLE)
    for name in ("edit", "score", "prompt, keys"):
        table.add_column(name, justify="right" if name == "score" else "left")
    for found in candidates:
        style = "green" if found["score"] > threshold else ""
        near = "  ".join(f"{name} {fmean(some):.2f}" for name, some in _by_place(found).items())
        cells = [Text(text, style) for text in (found["edit_id"], f"{found['score']:.2f}")]
        prompt = Text(shorten(found["prompt"], 52), style)
        table.add_row(*cells, prompt.append(f"\n{near}", "dim") if near else prompt)
    return table


def _by_place(candidate: dict[str, Any]) -> dict[str, list[float]]:
    """The similarities of each place where keys are read."""
    found: dict[str, list[float]] = {}
    for view, value in candidate["similarities"].items():
        found.setdefault(view.split(".")[0], []).append(value)
    return found
