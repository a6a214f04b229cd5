"""Evaluation commands: `eval`, `calibrate`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.table import Table

from scen.cli.edit import show_mlflow
from scen.cli.options import (
    BaseOptions,
    DryRun,
    Json,
    Limit,
    Locality,
    NoTracking,
    RowOptions,
    SettingOptions,
    Store,
    Version,
    Who,
    Why,
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
from scen.errors import ConfigError

if TYPE_CHECKING:
    from scen.calibration.calibrate import Calibration
    from scen.calibration.places import PlaceSearch
    from scen.pipeline.evaluate import Evaluation
    from scen.pipeline.run_job import Calibrated, Recalibrated

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
    if evaluation.advice:
        line(f"advice       {evaluation.advice}")


def _asking_table(asking: Mapping[str, Mapping[str, float | None]]) -> Table:
    """Where each way of asking is routed; tasks about a question must reach no edit."""
    heads = ("way of asking", "own edit", "exact answer", "another edit", "asked")
    shares = ("own_edit", "exact", "another_edit")
    rows = (
        (way, *(percent(figures[name]) for name in shares), f"{figures['count']:g}")
        for way, figures in asking.items()
    )
    return figures_table("Ways of asking", heads, rows)


@command
def calibrate(
    *,
    edits: Annotated[
        tuple[str, ...],
        Parameter(metavar="FILE", help="edits to calibrate on, as for scen edit; may be repeated"),
    ] = (),
    rows: RowOptions | None = None,
    store: Annotated[
        str | None,
        Parameter(metavar="URI", help="fit the router of this store on its own edits, and move the "
                  "store to it"),
    ] = None,
    quick: Annotated[
        bool,
        Parameter(help="in minutes, on the packaged samples (and --edits), as on the first use of "
                  "a base"),
    ] = False,
    locality: Annotated[
        str | None,
        Parameter(metavar="FILE", help="unrelated prompts; every other one is held out for the "
                  "test (default: a sample)"),
    ] = None,
    profile: Annotated[
        str | None,
        Parameter(name="--out", metavar="FILE", help="the profile: FILE.json, and FILE.safetensors "
                  "next to it"),
    ] = None,
    max_false_activation: Annotated[
        float | None,
        parsed(read_share),
        Parameter(metavar="P", help="share of prompts near an edit, but not about it, that may "
                  "reach it (default: the smallest of 0.005 to 0.05 that loses at most two points "
                  "of rephrases; with --store that of its current router, with --quick 0.16)"),
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
    dry_run: DryRun = False,
    force: Annotated[
        bool, Parameter(help="with --store: take the new router even if it is worse")
    ] = False,
    why: Why = "",
    who: Who = None,
    no_tracking: NoTracking = False,
    base: BaseOptions | None = None,
    json: Json = False,
) -> None:  # fmt: skip
    """fit the router and choose the expert settings for a base, or fit a store's router again

    A new base is calibrated in minutes on its first use (`scen edit`), and
    SmolLM2-135M-Instruct comes with a profile. This command takes longer and
    finds more, on edits that resemble those to come, with rephrases and near
    misses if available (others are generated). It learns how prompts are compared with
    edits, sets the threshold that keeps the bound on the false-positive rate for
    unseen edits, and chooses the layer, learning rate, rank and steps of
    experts. Everything is tested on held-out edits and wordings. Figures and
    plots go to MLflow, experiment calibration/BASE. Give several hundred edits
    of each kind; a thousand take most of an hour for SmolLM2 on two cores.

    With --store the router of a store is fitted on the store's own edits, and
    the store moves to it by a commit of its own: `scen rollback` brings the old
    router back, servers swap to the new one while they run. --dry-run shows the
    figures before and after.

    examples:
      scen calibrate --store ./my-store --dry-run
      scen calibrate --store ./my-store --why "600 edits since the first"
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
    from scen.pipeline.run_job import calibrate_base, recalibrate_store

    show_warnings()
    require_aim(store, profile, edits, is_quick=quick)
    spec = CalibrateSpec(
        edits=edits,
        **asdict(rows or RowOptions()),
        out=profile,
        store=store,
        quick=quick,
        dry_run=dry_run,
        force=force,
        why=why.strip(),
        who=who,
        locality=locality,
        base=BaseConfig(**(base or BaseOptions()).settings()),
        max_false_activation=max_false_activation,
        search_places=search_places,
        skip=skip,
        limit=limit,
        tracking=not no_tracking,
    )
    if store is not None:
        show_recalibration(recalibrate_store(spec, say, step_progress), is_json=json)
        return
    show_calibration(calibrate_base(spec, say, step_progress), is_json=json)


def require_aim(
    store: str | None, profile: str | None, edits: Sequence[str], *, is_quick: bool
) -> None:
    """Raises ConfigError unless the options calibrate either a base or a store."""
    if (store is None) == (profile is None):
        raise ConfigError("--out: give --out FILE, for the profile of a base, or --store")
    if store is None and not (edits or is_quick):
        raise ConfigError("--edits: give at least one file of edits, or --quick")


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


def show_recalibration(done: "Recalibrated", *, is_json: bool) -> None:
    """Print the figures of the current and of the new router, as tables or one JSON object."""
    if is_json:
        write_json(done.to_dict())
        return
    about = done.recalibration
    before = {kind.kind: kind for kind in about.before.kinds}
    heads = ("prompts", "number", "own edit before", "after", "another edit before", "after")
    rows = (
        (
            kind.kind,
            str(kind.count),
            *(percent(old.right if old else None), percent(kind.right)),
            *(percent(old.wrong if old else None), percent(kind.wrong)),
        )
        for kind in about.after.kinds
        for old in [before.get(kind.kind)]
    )
    out.print(figures_table("Routing of the store's edits, held out", heads, rows))
    line(f"router     {about.router.describe()}")
    if done.version is None:
        say("nothing was written (--dry-run)")
    else:
        line(f"version    {done.version}  (`scen rollback` brings the old router back)")


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
