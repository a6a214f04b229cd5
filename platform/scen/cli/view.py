"""Commands that query a store: `ask`, `report`."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from scen.cli.options import (
    POSITIVE,
    BaseOptions,
    Json,
    MaxNewTokens,
    Store,
    Version,
    read_config,
    room,
)
from scen.cli.output import escape, facts_table, line, make_table, out, say, shorten, write_json

if TYPE_CHECKING:
    from scen.ledger.state import Snapshot
    from scen.snapshot.ask import Answer, LikelyEdit

_NUM_LIKELY = 5
app, _, command = room("Looking at a store", 2)


@command
def ask(
    prompt: str,
    /,
    *,
    store: Store,
    version: Version = None,
    base_answer: Annotated[bool, Parameter(help="also show the unedited answer")] = False,
    explain: Annotated[
        bool, Parameter(help="also show the likeliest edits and their scores")
    ] = False,
    max_new_tokens: MaxNewTokens = 64,
    base: BaseOptions | None = None,
    json: Json = False,
) -> None:
    """ask the edited model, and see which edit answered"""
    from scen.errors import ConfigError
    from scen.fs import Storage
    from scen.snapshot.open import open_store

    if not prompt.strip():
        raise ConfigError("PROMPT: is empty")
    opened = open_store(
        Storage(store), read_config(base=(base or BaseOptions()).settings()).base, say
    )
    snapshot = opened.ledger.snapshot(version)
    answer = opened.at(snapshot).ask(
        prompt,
        max_new_tokens,
        base_answer=base_answer,
        num_likely=_NUM_LIKELY if explain else 0,
    )
    facts = _facts(answer)
    candidates = [_candidate(likely, snapshot) for likely in answer.likely_edits]
    if explain:
        why = reason(candidates, answer.threshold)
        facts |= {"candidates": candidates, "reason": why} if json else {"reason": why}
    if json:
        write_json(facts)
        return
    out.print(facts_table(facts))
    if candidates:
        out.print(candidate_table(candidates, facts["threshold"]))


@command
def report(
    *,
    store: Store,
    folder: Annotated[
        str,
        Parameter(name="--out", metavar="DIR", help="a new folder, or one with an earlier report"),
    ],
    version: Version = None,
    stream: Annotated[
        str | None, Parameter(metavar="NAME", help="only the edits and waves of this stream")
    ] = None,
    limit: Annotated[
        int,
        POSITIVE,
        Parameter(metavar="N", help="maximum rows per table on the page; the files have all"),
    ] = 50,
    plots: Annotated[
        int, POSITIVE, Parameter(metavar="N", help="plots of the newest N waves and N streams")
    ] = 8,
    json: Json = False,
) -> None:
    """write an HTML page about a store, with plots and tables (no MLflow needed)

    The page is self-contained: plots, tables and styles are embedded, without
    scripts or external files. It shows the content of the store's ledger and
    files (commits, waves, results of `scen edit` and `scen eval`, quarantined
    rows); no base is loaded and nothing is evaluated again. The tables are also
    written as CSV and JSON. An earlier report in the folder is replaced.

    examples:
      scen report --store ./my-store --out ./report   then open
                                                      ./report/index.html
      scen report --store ./my-store --out ./june --version 12 --stream news
    """
    from scen.fs import Storage
    from scen.report.render import INDEX, make_report, publish, require_place
    from scen.report.store import Wanted, read_store

    storage = Storage(store)
    wanted = Wanted(version, stream, limit, plots)
    facts = read_store(storage, wanted)
    path = Path(folder)
    require_place(path)
    page = make_report(storage, facts, wanted)
    publish(page, path)
    index = str(path / INDEX)
    if json:
        files = [str(path / name) for name in page.files]
        write_json({**page.figures, "index": index, "files": files})
        return
    line(page.figures["verdict"])
    for concern in page.figures["concerns"]:
        line(f"look at    {concern}")
    line(f"report     {index}")


def reason(candidates: Sequence[dict[str, Any]], threshold: float) -> str:
    """One sentence on why a prompt was or was not routed to an edit."""
    if not candidates:
        return "no edit is active, so the base answers"
    first = candidates[0]
    side = "above" if first["score"] > threshold else "not above"
    outcome = "it answers" if first["score"] > threshold else "the base answers"
    span = f" for {shorten(first['span'])!r}" if first["span"] else ""
    return (
        f"the likeliest edit, {first['edit_id']}, scores {first['score']:.4g}{span}, {side} the "
        f"threshold {threshold:.4g}: {outcome}"
    )


def candidate_table(candidates: Sequence[dict[str, Any]], threshold: float) -> Table:
    """A table of candidates, those above the threshold in green, with the mean similarity of the
    views at each place where keys are read."""
    rows = []
    for candidate in candidates:
        by_place = _by_place(candidate)
        means = "  ".join(f"{name} {fmean(values):.2f}" for name, values in by_place.items())
        prompt = Text(escape(shorten(candidate["prompt"], 52)))
        rows.append(
            (
                candidate["edit_id"],
                f"{candidate['score']:.2f}",
                prompt.append(f"\n{escape(means)}", "dim") if means else prompt,
            )
        )
    styles = ["green" if c["score"] > threshold else "" for c in candidates]
    title = "Candidates and the similarity of their keys (each view: --json)"
    heads = ("edit", "score", "prompt, keys")
    table = make_table(heads, rows, title=title, right=("score",), style=styles)
    table.box = SIMPLE
    return table


def _by_place(candidate: dict[str, Any]) -> dict[str, list[float]]:
    places: dict[str, list[float]] = {}
    for view, value in candidate["similarities"].items():
        places.setdefault(view.split(".")[0], []).append(value)
    return places


def _facts(answer: "Answer") -> dict[str, Any]:
    facts: dict[str, Any] = {
        "prompt": answer.prompt,
        "answer": answer.answer,
        "route": "base" if answer.edit_id is None else "edit",
        "edit_id": answer.edit_id,
        "nearest_edit": answer.nearest_edit,
        "score": round(answer.score or 0.0, 4),
        "threshold": round(answer.threshold, 4),
        "version": answer.version,
    }
    if answer.base_answer is not None:
        facts["base_answer"] = answer.base_answer
    return facts


def _candidate(likely: "LikelyEdit", snapshot: "Snapshot") -> dict[str, Any]:
    return {
        "edit_id": likely.edit_id,
        "prompt": snapshot.state.entries[likely.edit_id].edit.prompt,
        "score": round(likely.score, 4),
        "span": likely.span,
        "similarities": {name: round(value, 3) for name, value in likely.similarities.items()},
    }
