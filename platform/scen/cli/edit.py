"""Commands that add edits to a store: `edit`, `drain`, `rebase`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from scen.cli.options import (
    POSITIVE,
    BaseOptions,
    EditOptions,
    Json,
    LoadingOptions,
    SettingOptions,
    WaveOptions,
    between,
    read_config,
    room,
)
from scen.cli.output import (
    line,
    local_runtime,
    make_table,
    out,
    report_table,
    say,
    shorten,
    show_warnings,
    write_json,
)

if TYPE_CHECKING:
    from scen.pipeline.apply import EditReport
    from scen.pipeline.drain import Drained
    from scen.pipeline.forecast import Forecast, ForecastEdit

_NUM_SHOWN = 20
app, _, command = room("Edits", 1)


@Parameter(name="*", group="With --dry-run")
@dataclass(frozen=True, kw_only=True)
class DryRunOptions:
    """What a dry run checks."""

    answers: Annotated[
        tuple[int, ...] | None,
        POSITIVE,
        Parameter(metavar="N", consume_multiple=(0, 1), help="also show the current answers "
                  "to the prompts of the first N edits (20 if N is omitted), next to the new ones"),
    ] = None  # fmt: skip
    no_base: Annotated[
        bool,
        Parameter(help="use only the ledger, without loading the store's base: prompts are not "
                  "compared by the router's keys, and token counts are not checked"),
    ] = False  # fmt: skip

    @property
    def num_answers(self) -> int:
        """Number of current answers to show."""
        return 0 if self.answers is None else (*self.answers, _NUM_SHOWN)[0]


@command
def edit(
    file: Annotated[str, Parameter(help="the edits")],
    /,
    *,
    options: EditOptions,
    dry_run: Annotated[
        bool,
        Parameter(
            help="show which edits would be committed, replaced and rejected, which prompts "
            "the router would confuse, and how long it would take"
        ),
    ] = False,
    dry: DryRunOptions | None = None,
    json: Json = False,
) -> None:
    r"""train, evaluate and commit the edits of a file

    FILE is JSONL, CSV or Parquet with at least `prompt` and `target`, or a
    ZsRE, KnowEdit, CounterFact or SelfCheckGPT file; a path or a URI such as
    s3://bucket/edits.parquet. Rows that cannot be used are written to a
    quarantine Parquet file with the reason, and the others proceed. After a
    crash, run the same command again: nothing is lost or done twice.

    Near-duplicates are edits whose prompts the router also matches to another
    edit. They are reported after the evaluation of their wave, and by --dry-run
    before anything is trained; with waves.on_collision=quarantine they are set
    aside before training.

    examples:
      scen edit edits.jsonl --store ./my-store
      scen edit edits.parquet --store ./my-store --wave-size 500 --strict
      scen edit corrections.jsonl --store ./my-store --on-conflict supersede \
           --dry-run --answers
      scen edit edits.jsonl --store ./my-store \
           --set waves.on_collision=quarantine
      scen edit corrections.jsonl --store ./my-store --on-conflict supersede \
           --why "new mayors"
      scen edit edits.jsonl --store ./paper-store --method scen \
           --base meta-llama/Llama-2-7b-hf --config configs/llama2-7b-zsre.yaml
    """
    from scen.fs import Storage
    from scen.pipeline.forecast import Look, forecast
    from scen.pipeline.run_job import edit_job, job_config, run_stream_spec

    show_warnings()
    spec = options.spec(file)
    config = job_config(spec)
    if dry_run:
        dry = dry or DryRunOptions()
        look = Look(has_keys=not dry.no_base, answers=dry.num_answers)
        expected = forecast(edit_job(spec), Storage(spec.store), config, look, say)
        if json:
            write_json(expected.to_dict())
        else:
            _show_forecast(expected)
        return
    report, _ = run_stream_spec(spec, config, local_runtime())
    show_report(report, is_json=json)


@command
def drain(
    *,
    stream: Annotated[
        str, Parameter(metavar="NAME", help="stream whose inbox is drained")
    ] = "online",
    max_age: Annotated[
        float | None,
        between(0),
        Parameter(
            metavar="S", help="maximum seconds that an edit waits for its wave to fill (default: 5)"
        ),
    ] = None,
    once: Annotated[bool, Parameter(help="process the edits that wait now, then exit")] = False,
    waves: WaveOptions,
    base: BaseOptions | None = None,
    settings: SettingOptions | None = None,
    json: Json = False,
) -> None:
    """train, evaluate and commit the edits that arrive over HTTP

    Edits that are submitted one by one (POST /v1/edits of `scen serve`) wait
    under STORE/inbox/STREAM. This command runs a wave as soon as --wave-size (or
    waves.max_bytes) is reached, or the oldest edit has waited for --max-age
    seconds. It runs until it is stopped, and can be killed at any time: run it
    again and it continues. An edit that is invalid, or contradicts an earlier
    one, is set aside with the reason (see GET /v1/edits/ID). Between waves,
    valid_from and valid_until are applied (see `scen expire`).

    examples:
      scen drain --store ./my-store --on-conflict supersede
      scen drain --store ./my-store --stream news --max-age 60 --wave-size 500
      scen drain --store ./my-store --once      what waits now, then exit; for a timer
    """
    from scen.pipeline.job_spec import DrainSpec
    from scen.pipeline.run_job import job_config, run_drain_spec

    show_warnings()
    base = base or BaseOptions()
    spec = DrainSpec(
        store=waves.store,
        stream=stream,
        once=once,
        locality=waves.locality,
        tracking=not waves.no_tracking,
        settings=read_config(settings, base=base.settings(), **waves.settings(max_age)),
    )
    run_drain_spec(spec, job_config(spec), local_runtime(), partial(show_wave, is_json=json))


@command
def rebase(
    old: Annotated[str, Parameter(help="the store to take the edits from")],
    /,
    *,
    to: Annotated[
        str, Parameter(metavar="BASE", help="the other base: a hub id, a folder or a .gguf file")
    ],
    version: Annotated[
        int | None, Parameter(metavar="V", help="version of OLD (default: newest)")
    ] = None,
    without: Annotated[
        tuple[str, ...],
        Parameter(metavar="EDIT_ID", help="leave this edit behind; may be repeated"),
    ] = (),
    waves: WaveOptions,
    loading: LoadingOptions | None = None,
    settings: SettingOptions | None = None,
    json: Json = False,
) -> None:
    r"""retrain the active edits of a store on another base

    Retrains all edits that are active in the store OLD (or were at --version) on
    another base, from the texts in its ledger, and commits them to the new store
    (--store) under the same ids and streams. OLD is only read. After a crash,
    run the same command again.

    To erase edits for good, text included, rebase to the base of OLD --without
    them (with the --profile and settings of OLD, if any), serve the new store,
    and delete OLD, its backups, and the runs of its streams in MLflow: a ledger
    keeps all texts. Edits that are not active are not taken.

    examples:
      scen rebase ./my-store --to ./smollm2-finetuned --store ./my-next-store
      scen rebase s3://bucket/llama2 --to meta-llama/Llama-3.2-1B \
           --store s3://bucket/llama3 --profile llama3.json
      scen rebase ./my-store --to smollm2-135m-instruct --store ./my-next-store \
           --without mayor-paris
    """
    from scen.fs import Storage
    from scen.pipeline.apply import RebaseJob
    from scen.pipeline.apply import rebase as run_rebase

    show_warnings()
    loading = loading or LoadingOptions()
    config = read_config(settings, base=loading.settings(to), **waves.settings())
    job = RebaseJob(old, version, without, waves.locality, not waves.no_tracking)
    report = run_rebase(job, Storage(waves.store), config, local_runtime())
    report.require_edits(old)
    show_report(report, is_json=json)


def show_report(report: "EditReport", *, is_json: bool) -> None:
    """Print the figures of the last wave and a summary, or the report as one JSON object."""
    from scen.report.tables import counted

    if is_json:
        write_json(report.to_dict())
        return
    if report.waves:
        out.print(report_table(report.waves[-1].evaluated["report"], "Last wave"))
    num_waves = len(report.waves) - len(report.held)
    out.print(
        f"{report.committed} edits in {counted(num_waves, 'wave')} committed, "
        f"{report.superseded} older ones superseded, "
        f"{report.known} known before, {report.rejected} rejected, {report.seconds} s"
    )
    _show_held(report.held)
    for remark in report.remarks:
        line(f"note       {remark}")
    line(f"store      {report.store}  (version {report.version})")
    if report.model:
        line(f"model      models:/{report.model}@champion")
    show_mlflow(report.tracking_uri)


def show_mlflow(tracking_uri: str | None) -> None:
    """Print how to open the MLflow page, if there is a tracking URI."""
    if tracking_uri:
        from scen.tracking.client import ui_command

        line(f"MLflow     {ui_command(tracking_uri)}")


def show_wave(wave: "Drained", *, is_json: bool) -> None:
    """Print the outcome of a drained wave, as text or one JSON object."""
    if is_json:
        write_json(asdict(wave))
        return
    committed = None if wave.report is None else wave.report.version
    version = "" if committed is None else f", version {committed}"
    out.print(
        f"wave {wave.number}: {wave.committed} edits committed, {wave.superseded} older ones "
        f"superseded, {wave.known} known before, {len(wave.rejections)} rejected{version}"
    )
    for row in wave.rejections:
        line(f"rejected   {row.id or f'row {row.row}'}: {row.field}: {row.reason}")
    for remark in wave.remarks:
        line(f"note       {remark}")


def _show_held(held: Mapping[str, Sequence[str]]) -> None:
    for key, reasons in held.items():
        line(f"held       {key}: {'; '.join(reasons) or 'it was rejected'}")
    if held:
        out.print("review them with `scen candidates`, then `scen promote` or `scen reject`")


def _show_forecast(expected: "Forecast") -> None:
    """Print what would be committed and rejected, the remarks, and the expected time."""
    from scen.report.tables import counted

    if expected.admitted:
        out.print(_admitted_table(expected.admitted))
    for row in expected.rejections[:_NUM_SHOWN]:
        line(f"rejected   {row.id or f'row {row.row}'}: {row.field}: {row.reason}")
    for remark in expected.remarks[:_NUM_SHOWN]:
        line(f"note       {remark}")
    for pair in (expected.collisions or [])[:_NUM_SHOWN]:
        what = f"the router also matches the prompt of {pair.id} to {pair.other}"
        line(f"collision  {what} (score {pair.score:.3g})")
    counts = {"rejected": len(expected.rejections), "collisions": len(expected.collisions or [])}
    for name, count in counts.items():
        if count > _NUM_SHOWN:
            out.print(f"and {count - _NUM_SHOWN} more {name}; --json shows all")
    superseded = sum(len(row.replaces) for row in expected.admitted)
    out.print(
        f"{len(expected.admitted)} edits in {counted(expected.waves, 'wave')} would be committed "
        f"on version {expected.version}, {superseded} older ones superseded, "
        f"{expected.known} known before, {len(expected.rejections)} rejected"
    )
    if expected.collisions is None:
        line("near-duplicates were not checked: no router was loaded")
    line(_expected_time(expected))


def _expected_time(expected: "Forecast") -> str:
    if expected.train_seconds is None or expected.eval_seconds is None:
        return "time       unknown for this base before the first wave; try --limit 8 first"
    parts = (
        f"{expected.train_seconds:.0f} s of training, {expected.eval_seconds:.0f} s of evaluation"
    )
    if expected.is_rough:
        return f"time       very roughly {parts}: a guess, until the store has measured waves"
    return f"time       about {parts}, as the store's newest waves took"


def _admitted_table(edits: "list[ForecastEdit]") -> Table:
    answers = ("answer now",) if any(edit.answer is not None for edit in edits) else ()
    rows = (
        [
            edit.id,
            shorten(edit.prompt),
            *([shorten(edit.answer or "")] if answers else []),
            shorten(edit.target),
            ", ".join(edit.replaces),
        ]
        for edit in edits[:_NUM_SHOWN]
    )
    title = f"Prompts whose answers are meant to change (the first {min(len(edits), _NUM_SHOWN)})"
    return make_table(("edit", "prompt", *answers, "new answer", "replaces"), rows, title=title)
