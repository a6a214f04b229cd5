"""`scen edit --dry-run`: what would become of a file of edits. Nothing is trained or written."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text

from scen.cli.apply import EditJob
from scen.cli.output import out, write_json
from scen.cli.render import shorten
from scen.config import Config
from scen.errors import NotFoundError
from scen.fs import Storage
from scen.ingest import Validator, ingest
from scen.records import Edit
from scen.registry.actions import WaveCommit, wave_events
from scen.registry.ledger import open_ledger
from scen.registry.snapshot import Snapshot
from scen.registry.state import fold
from scen.waves.admit import Admission, admit
from scen.waves.plan import Wave, cut_waves
from scen.waves.run_stream import check_name, name_stream

_SHOWN = 20


@dataclass
class Forecast:
    """`admitted` are the edits that would be committed, each with the ids it `replaces`: their
    prompts are those whose answers are meant to change. `train_seconds` is taken from the store's
    waves so far; None where there are none."""

    stream: str
    store: str
    version: int
    waves: int = 0
    known: int = 0
    admitted: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    train_seconds: float | None = None


def forecast(job: EditJob, storage: Storage, config: Config) -> Forecast:
    """Read the file and admit its edits wave by wave, as if each were committed. Raises what
    reading a file of edits raises."""
    stream = check_name(job.stream or name_stream(job.file))
    snapshot = _newest(storage)
    found = Forecast(stream, storage.uri, snapshot.version)
    batches = _batches(job, config, found)
    for wave in cut_waves(stream, batches, config.waves.size, {}):
        admission = admit(wave.edits, snapshot, config.waves.on_conflict)
        _note(found, admission)
        if admission.fresh:
            found.waves += 1
            snapshot = _as_if_committed(wave, admission, snapshot)
    pace = seconds_per_edit(storage)
    if pace is not None:
        found.train_seconds = round(pace * len(found.admitted), 3)
    return found


def seconds_per_edit(storage: Storage) -> float | None:
    """How long an edit took to train in the waves of a store, median; None where there are none."""
    taken = []
    for name in storage.names("waves"):
        folder, _, step = name.rpartition("/")
        if step == "trained.json":
            num_edits = len(storage.read_json(f"{folder}/planned.json")["edit_ids"])
            taken.append(storage.read_json(name)["seconds"] / num_edits)
    return median(taken) if taken else None


def show(found: Forecast, is_json: bool) -> None:
    """The forecast for people, or as one JSON object."""
    if is_json:
        write_json(asdict(found) | {"dry_run": True})
        return
    if found.admitted:
        out.print(_table(found.admitted))
    for row in found.rejected[:_SHOWN]:
        out.print(f"rejected   {row['id']}: {row['field']}: {row['reason']}", soft_wrap=True)
    for remark in found.remarks[:_SHOWN]:
        out.print(f"note       {remark}", soft_wrap=True)
    time = "" if found.train_seconds is None else f", about {found.train_seconds:.0f} s of training"
    out.print(
        f"{len(found.admitted)} edits in {found.waves} waves would be committed on version "
        f"{found.version}, {sum(len(row['replaces']) for row in found.admitted)} older ones "
        f"superseded, {found.known} known before, {len(found.rejected)} rejected{time}"
    )


def _newest(storage: Storage) -> Snapshot:
    try:
        return open_ledger(storage).snapshot()
    except NotFoundError:
        return Snapshot(0)


def _batches(job: EditJob, config: Config, found: Forecast) -> Iterator[list[Edit]]:
    validator = Validator(may_contradict=config.waves.on_conflict != "quarantine")
    read = ingest(
        job.file, validator, data_format=job.data_format, limit=job.limit, strict=job.strict
    )
    for batch in read:
        found.rejected += [
            {"id": row.id, "field": row.field, "reason": row.reason} for row in batch.rejections
        ]
        yield list(batch.edits)


def _note(found: Forecast, admission: Admission) -> None:
    replaced: dict[str, list[str]] = {}
    for older, newer in admission.supersedes.items():
        replaced.setdefault(newer, []).append(older)
    found.known += len(admission.known)
    found.remarks += admission.remarks
    found.rejected += [
        {"id": clash.edit.id, "field": clash.field, "reason": clash.reason}
        for clash in admission.rejections
    ]
    found.admitted += [
        {"id": e.id, "prompt": e.prompt, "target": e.target, "replaces": replaced.get(e.id, [])}
        for e in admission.fresh
    ]


def _as_if_committed(wave: Wave, admission: Admission, snapshot: Snapshot) -> Snapshot:
    version = snapshot.version + 1
    commit = WaveCommit(
        wave.key, wave.stream, wave.index, "", admission.fresh, supersedes=admission.supersedes
    )
    events = wave_events(commit, snapshot.state, version, datetime.now(UTC))
    return Snapshot(version, fold(snapshot.state, events))


def _table(rows: list[dict[str, Any]]) -> Table:
    title = f"Prompts whose answers are meant to change (the first {min(len(rows), _SHOWN)})"
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("edit", "prompt", "new answer", "replaces"):
        table.add_column(name, overflow="fold")
    for row in rows[:_SHOWN]:
        cells = (row["id"], shorten(row["prompt"]), shorten(row["target"]))
        table.add_row(*map(Text, (*cells, ", ".join(row["replaces"]))))
    return table
