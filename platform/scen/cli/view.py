"""Commands that look at a store or compare methods: `ask`, `report`, `benchmark`."""

from collections.abc import Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from scen.cli.edit import show_mlflow
from scen.cli.options import (
    POSITIVE,
    BaseOptions,
    Json,
    MaxNewTokens,
    NoTracking,
    Store,
    Version,
    read_config,
    room,
)
from scen.cli.output import (
    escape,
    facts_table,
    figures_table,
    line,
    make_table,
    out,
    say,
    shorten,
    show_warnings,
    step_progress,
    write_json,
)

if TYPE_CHECKING:
    from scen.benchmark.run import Published
    from scen.benchmark.settings import BenchmarkSettings, MethodSettings, Row, RowStore
    from scen.ledger.state import Snapshot
    from scen.model.base import Base
    from scen.snapshot.ask import Answer, LikelyEdit

_NUM_LIKELY = 5
app, _, command = room("Looking at a store", 2)
_evaluation = room("Evaluation", 4)[1]


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


@app.command(group=_evaluation)
def benchmark(
    file: Annotated[str, Parameter(help="the benchmark, such as configs/eval/zsre-200.yaml")],
    /,
    *,
    folder: Annotated[
        str | None,
        Parameter(name="--out", metavar="DIR", help="folder or URI for rows and tables (default: "
                  ".scen/benchmark/NAME)"),
    ] = None,
    sizes: Annotated[
        tuple[int, ...],
        POSITIVE,
        Parameter(name="--size", metavar="T", help="number of edits, instead of the file's sizes; "
                  "may be repeated"),
    ] = (),
    methods: Annotated[
        tuple[str, ...],
        Parameter(name="--method", metavar="NAME", help="only this method of the file; may be "
                  "repeated"),
    ] = (),
    tune: Annotated[
        bool,
        Parameter(help="try each method's grid on the validation edits and show the best "
                  "settings; the file is not changed"),
    ] = False,
    threads: Annotated[
        int | None, POSITIVE, Parameter(metavar="N", help="threads of torch (default: all cores)")
    ] = None,
    no_tracking: NoTracking = False,
    json: Json = False,
) -> None:  # fmt: skip
    """compare editing methods side by side

    A benchmark is a YAML file (configs/eval/): edits, prompts that must not
    change, and the methods to compare, each with its settings. All methods apply
    the same edits to the same base and are asked the same questions after the
    last edit. Tables and charts go to stdout, to --out and to MLflow, experiment
    benchmark/NAME. Finished rows are kept in --out: a stopped run continues;
    delete the folder to start over.

    examples:
      scen benchmark configs/eval/zsre-200.yaml          every method, 200 edits
      scen benchmark configs/eval/zsre-200.yaml --size 50 --size 200 \\
           --method "SCEN platform"
      scen benchmark configs/eval/zsre-200.yaml --tune   try settings
      scen benchmark configs/eval/hallucination-200.yaml
    """
    import torch

    from scen.benchmark.run import (
        load_benchmark_base,
        publish,
        read_benchmark,
        run_benchmark,
        summary,
    )
    from scen.benchmark.settings import RowStore
    from scen.fs import Storage

    show_warnings()
    settings = read_benchmark(file, methods, sizes)
    storage = Storage(folder or f".scen/benchmark/{settings.name}")
    if threads:
        torch.set_num_threads(threads)
    base = load_benchmark_base(settings, say)
    if tune:
        _tune(base, settings, RowStore(storage), is_json=json)
        return
    with step_progress() as bars:
        rows = run_benchmark(
            base, settings, RowStore(storage), bars, lambda row: bars.start_wave(summary(row))
        )
    done = publish(settings, storage, base.name, rows, tracking=not no_tracking)
    show_benchmark(done, is_json=json)


def _tune(base: "Base", settings: "BenchmarkSettings", store: "RowStore", *, is_json: bool) -> None:
    from scen.benchmark.run import tune

    trials: list[dict[str, Any]] = []
    with step_progress() as bars:

        def note(method: "MethodSettings", tried: dict[str, Any], row: "Row", merit: float) -> None:
            trials.append({"method": method.name, "settings": tried, "merit": merit} | row.figures)
            bars.start_wave(f"{method.name} {dumps(tried)}: {merit:.4f}")

        best = tune(base, settings, store, bars, note)
    if is_json:
        write_json({"best": best, "trials": trials})
        return
    for name, tried in best.items():
        line(f"{name}: {dumps(tried)}")


def show_benchmark(done: "Published", *, is_json: bool) -> None:
    """Print the tables, or the rows as one JSON object."""
    if is_json:
        rows = [asdict(row) for row in done.rows]
        write_json({"rows": rows, "tables": done.tables, "tracking_uri": done.tracking_uri})
        return
    for grid in done.grids:
        out.print(figures_table(grid.title, grid.heads, grid.lines))
    line(f"tables     {done.tables}")
    show_mlflow(done.tracking_uri)
