"""Commands that look at a store: `ask`, `report`."""

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
    candidates = [_candidate(one, snapshot) for one in answer.likely_edits]
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
        Parameter(metavar="N", help="rows of each table on the page; the files have all"),
    ] = 50,
    plots: Annotated[
        int, POSITIVE, Parameter(metavar="N", help="plots of the newest N waves and N streams")
    ] = 8,
    json: Json = False,
) -> None:
    """a store as one HTML page with plots and tables, for people without MLflow

    The page needs nothing but a browser: plots, tables and style are in it, and
    nothing is fetched or run. It shows what the store's ledger and files hold
    (commits, waves, outcomes of `scen edit` and `scen eval`, rows set aside); no
    base is loaded and nothing is evaluated anew. The tables are beside it as CSV
    and JSON. An earlier report in the folder is replaced.

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
    """Why a prompt was routed, or was not, in one sentence."""
    if not candidates:
        return "no edit is active, so the base answers"
    first = candidates[0]
    side = "above" if first["score"] > threshold else "not above"
    who = "it answers" if first["score"] > threshold else "the base answers"
    span = f" for {shorten(first['span'])!r}" if first["span"] else ""
    return (
        f"the likeliest edit, {first['edit_id']}, scores {first['score']:.4g}{span}, {side} the "
        f"threshold {threshold:.4g}: {who}"
    )


def candidate_table(candidates: Sequence[dict[str, Any]], threshold: float) -> Table:
    """Candidates as rows; those above the threshold in green. Of each place where keys are read,
    the mean similarity of its views: all of them are too many for a terminal."""
    rows = []
    for one in candidates:
        means = "  ".join(f"{name} {fmean(some):.2f}" for name, some in _by_place(one).items())
        prompt = Text(escape(shorten(one["prompt"], 52)))
        rows.append(
            (
                one["edit_id"],
                f"{one['score']:.2f}",
                prompt.append(f"\n{escape(means)}", "dim") if means else prompt,
            )
        )
    styles = ["green" if one["score"] > threshold else "" for one in candidates]
    title = "Candidates, and how near their keys are (each view: --json)"
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
