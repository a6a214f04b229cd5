"""Evaluation commands: `eval`, `calibrate`, `benchmark`."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from scen.cli.edit import show_mlflow
from scen.cli.options import (
    POSITIVE,
    BaseOptions,
    Json,
    Limit,
    Locality,
    NoTracking,
    RowOptions,
    SettingOptions,
    Store,
    Version,
    between,
    parsed,
    read_config,
    read_share,
    read_target,
    room,
)
from scen.cli.output import (
    figures_table,
    line,
    local_runtime,
    make_table,
    out,
    percent,
    report_table,
    say,
    show_warnings,
    step_progress,
    write_json,
)

if TYPE_CHECKING:
    from scen.benchmark.publish import Published
    from scen.benchmark.settings import BenchmarkSettings, MethodSettings, Row, RowStore
    from scen.calibration.calibrate import Calibration
    from scen.calibration.places import PlaceSearch
    from scen.model.base import Base
    from scen.pipeline.evaluate import Evaluation
    from scen.pipeline.run_job import Calibrated

app, _, command = room("Evaluation", 4)


@command
def eval_(
    *,
    store: Store,
    edits: Annotated[
        str | None, Parameter(metavar="FILE", help="evaluate these (default: the ledger's)")
    ] = None,
    rows: RowOptions | None = None,
    locality: Locality = None,
    version: Version = None,
    limit: Annotated[Limit, Parameter(help="only the first N edits")] = None,
    asking: Annotated[
        bool,
        Parameter(help="also ask each edit's question in about twenty other ways (greetings, "
                  "quotes, typos ...), and evaluate tasks about it that must reach no edit"),
    ] = False,
    else_rollback: Annotated[
        int | Literal["previous"] | None,
        parsed(read_target),
        Parameter(metavar="V", show_choices=False, help="roll back to this version, or to "
                  "`previous`, and fail, if a figure is below waves.min_reliability or "
                  "waves.min_locality"),
    ] = None,
    base: BaseOptions | None = None,
    settings: SettingOptions | None = None,
    json: Json = False,
) -> None:  # fmt: skip
    """evaluate all committed edits, or those of a file, on the newest version

    With --else-rollback this guards what is served: if a figure is below
    waves.min_reliability or waves.min_locality, the store is rolled back and the
    command fails, so that the caller notices. `previous` is the version before
    the newest wave that has an active edit: repeated runs go back wave by wave
    until the bounds hold. No rollback is done if it would restore edits that
    were revoked or expired since. Servers that follow the newest version switch
    to it automatically.

    examples:
      scen eval --store ./my-store
      scen eval --store ./my-store --edits probes.jsonl --version 12
      scen eval --store ./my-store --asking --limit 200
      scen eval --store ./my-store --set waves.min_reliability=0.95 \\
           --else-rollback previous

    every ten minutes, by cron (on one line):
      */10 * * * *  scen eval --store s3://bucket/store --edits probes.jsonl
                    --set waves.min_reliability=0.95
                    --set waves.min_locality=0.99
                    --else-rollback previous --json >> scen-guard.log
    """
    from scen.pipeline.evaluate import measure_here
    from scen.pipeline.job_spec import EvalSpec
    from scen.pipeline.run_job import job_config, run_eval_spec

    show_warnings()
    spec = EvalSpec(
        store=store,
        version=version,
        edits=edits,
        **asdict(rows or RowOptions()),
        limit=limit,
        locality=locality,
        asking=asking,
        else_rollback=else_rollback,
        settings=read_config(settings, base=(base or BaseOptions()).settings()),
    )
    measure = measure_here(local_runtime())
    run_eval_spec(spec, job_config(spec), measure, partial(show_evaluation, is_json=json), say)


@command
def calibrate(
    *,
    edits: Annotated[
        list[str],
        Parameter(metavar="FILE", help="edits to calibrate on, as for scen edit; may be repeated"),
    ],
    rows: RowOptions | None = None,
    locality: Annotated[
        str | None,
        Parameter(metavar="FILE", help="unrelated prompts; every other one is held out for the "
                  "test (default: a sample)"),
    ] = None,
    profile: Annotated[
        str,
        Parameter(name="--out", metavar="FILE", help="the profile: FILE.json, and FILE.safetensors "
                  "next to it"),
    ],
    max_false_activation: Annotated[
        float | None,
        parsed(read_share),
        Parameter(metavar="P", help="share of prompts near an edit, but not about it, that may "
                  "reach it (default: the smallest of 0.005 to 0.05 that loses at most two points "
                  "of rephrases)"),
    ] = None,
    search_places: Annotated[
        bool,
        Parameter(help="search for the best places to read keys instead of using the default "
                  "depths: slower, and needs more memory"),
    ] = False,
    skip: Annotated[
        int, between(0, what="a whole number"),
        Parameter(metavar="N", help="hold out the first N valid edits of each file for tests"),
    ] = 0,
    limit: Annotated[Limit, Parameter(help="at most N valid edits of each file")] = None,
    no_tracking: NoTracking = False,
    base: BaseOptions | None = None,
    json: Json = False,
) -> None:  # fmt: skip
    """fit the router and choose the expert settings for a base

    Needed once per base; SmolLM2-135M-Instruct comes with a profile. The edits
    should resemble those to come, with rephrases and near misses if available
    (others are generated). The command learns how prompts are compared with
    edits, sets the threshold that keeps the bound on the false-positive rate for
    unseen edits, and chooses the layer, learning rate, rank and steps of
    experts. Everything is tested on held-out edits and wordings. Figures and
    plots go to MLflow, experiment calibration/BASE. Give several hundred edits
    of each kind; a thousand take most of an hour for SmolLM2 on two cores.

    examples:
      scen calibrate --edits my-edits.jsonl --locality questions.jsonl \\
           --out smollm2.json
      scen calibrate --base meta-llama/Llama-2-7b-hf --template llama2-inst \\
           --dtype bfloat16 --edits zsre.jsonl --edits counterfact.jsonl \\
           --locality nq.jsonl --out llama2-7b.json
      scen edit edits.jsonl --store ./my-store \\
           --base meta-llama/Llama-2-7b-hf --profile llama2-7b.json
    """
    from scen.config import BaseConfig
    from scen.pipeline.job_spec import CalibrateSpec
    from scen.pipeline.run_job import calibrate_base

    show_warnings()
    spec = CalibrateSpec(
        edits=tuple(edits),
        **asdict(rows or RowOptions()),
        out=profile,
        locality=locality,
        base=BaseConfig(**(base or BaseOptions()).settings()),
        max_false_activation=max_false_activation,
        search_places=search_places,
        skip=skip,
        limit=limit,
        tracking=not no_tracking,
    )
    show_calibration(calibrate_base(spec, say, step_progress), is_json=json)


@command
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

    from scen.benchmark.publish import load_benchmark_base, publish, read_benchmark, summary
    from scen.benchmark.run import run_benchmark
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


def show_evaluation(evaluation: "Evaluation", *, is_json: bool) -> None:
    """Print the figures as tables or one JSON object."""
    report = evaluation.to_dict()
    if is_json:
        write_json(report)
        return
    title = f"Version {evaluation.version}: {evaluation.figures.n_edits} edits"
    out.print(report_table(report, title))
    if report["asking"]:
        out.print(_asking_table(report["asking"]))
    line(f"every probe  {report['per_edit_path']}")


def show_calibration(done: "Calibrated", *, is_json: bool) -> None:
    """Print the chosen settings and their test results, as tables or one JSON object."""
    calibration, path = done.calibration, str(done.path)
    profile = calibration.profile
    if is_json:
        write_json(
            {
                "profile": path,
                "expert": dict(profile.expert),
                "places": [place.name for place in profile.router.encoder.places],
                "calibration": dict(profile.calibration),
                "tracking_uri": done.tracking_uri,
            }
        )
        return
    for table in _calibration_tables(calibration):
        out.print(table)
    expert = ", ".join(f"{name} {value:g}" for name, value in profile.expert.items())
    line(f"router     {profile.router.describe()}")
    line(f"expert     {expert}")
    line(f"profile    {path}  (scen edit ... --profile {path})")
    show_mlflow(done.tracking_uri)


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


def _asking_table(asking: Mapping[str, Mapping[str, float | None]]) -> Table:
    """Where each way of asking is routed; tasks about a question must reach no edit."""
    heads = ("way of asking", "own edit", "exact answer", "another edit", "asked")
    shares = ("own_edit", "exact", "another_edit")
    rows = (
        (way, *(percent(figures[name]) for name in shares), f"{figures['count']:g}")
        for way, figures in asking.items()
    )
    return figures_table("Ways of asking", heads, rows)


def _calibration_tables(calibration: "Calibration") -> Iterator[Table]:
    """Places, experts, and the routing of held-out edits."""
    if calibration.places is not None:
        yield _places_table(calibration.places)
    yield _trials_table(calibration)
    rows = (
        (
            kind.kind,
            str(kind.count),
            "" if kind.right is None else percent(kind.right),
            f"{100 * kind.wrong:.2f} %",
        )
        for kind in calibration.figures.kinds
    )
    auc = f"area under the curve {calibration.figures.auc:.3f}"
    title = f"Routing of held-out edits, {auc}"
    yield figures_table(title, ("prompts", "number", "own edit", "another edit"), rows)


def _places_table(search: "PlaceSearch") -> Table:
    rows = [(" ".join(p.name for p in step.places), percent(step.recall)) for step in search.steps]
    styles = ["green" if len(s.places) == len(search.chosen) else "" for s in search.steps]
    heads = ("keys", "rephrases found")
    return make_table(heads, rows, title="Where keys are read", right=heads[1:], style=styles)


def _trials_table(calibration: "Calibration") -> Table:
    names = ("layer", "lr", "rank", "steps")
    heads = (*names, "edits", "rephrases", "seconds")
    rows = [
        (
            *(f"{getattr(trial, name):g}" for name in names),
            percent(trial.reliability),
            percent(trial.generality),
            f"{trial.seconds:.1f}",
        )
        for trial in calibration.trials
    ]
    chosen = calibration.profile.expert
    styles = [
        "green" if all(getattr(trial, name) == chosen[name] for name in names) else ""
        for trial in calibration.trials
    ]
    title = "Experts, each edit routed to its own"
    return make_table(heads, rows, title=title, right=heads[1:], style=styles)
