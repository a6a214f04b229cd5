"""What the page tells of each wave, and of the newest evaluation."""

from collections.abc import Iterator, Mapping
from typing import Any

from scen.fs import Storage
from scen.report.markup import Markup, tag
from scen.report.pictures import gallery
from scen.report.read_store import StoreFacts, evaluation_rows
from scen.report.read_waves import WaveFacts, wave_losses, wave_rows
from scen.report.table import moment
from scen.report.verdict import say
from scen.report.wave_pictures import (
    age_picture,
    loss_picture,
    report_picture,
    routes_picture,
    threshold_picture,
)

_RETENTION = "Prompts of earlier edits, asked again when this wave was measured."
_AGES = "All edits of that version, asked again, by their age."


def wave_details(storage: Storage, wave: WaveFacts, anchor: str, *, is_open: bool) -> Markup:
    """A wave with its pictures, folded away. Raises NotFoundError, IntegrityError where its files
    are gone or damaged."""
    parts = (
        tag("summary", f"{wave.name}: {_short(wave)}"),
        tag("p", *_facts(wave)),
        gallery(_pictures(storage, wave)),
    )
    if is_open:
        return tag("details", *parts, id=anchor, open="")
    return tag("details", *parts, id=anchor)


def _pictures(storage: Storage, wave: WaveFacts) -> Iterator[Markup]:
    yield from loss_picture(wave_losses(storage, wave), wave.name)
    if wave.report is not None:
        rows = wave_rows(storage, wave)
        yield from report_picture(wave.report, wave.name)
        yield from routes_picture(rows, wave.name)
        yield from age_picture(rows, f"Retention by age: {wave.name}", _RETENTION)
        yield from threshold_picture(rows, wave.name, wave.threshold)


def evaluation_pictures(storage: Storage, facts: StoreFacts) -> Iterator[Markup]:
    """The pictures of the newest evaluation."""
    newest = facts.evaluations[-1]
    rows = evaluation_rows(storage, newest.file, facts.snapshot, facts.streams)
    name = f"version {newest.file.version}"
    yield from report_picture(newest.report, name)
    yield from routes_picture(rows, name)
    order = facts.snapshot.state.order
    told = [r for r in rows if r["kind"] == "reliability" and r["edit_id"] in order]
    told.sort(key=lambda row: order[row["edit_id"]])
    yield from age_picture([_as_earlier(row) for row in told], f"By age: {name}", _AGES)
    yield from threshold_picture(rows, name)


def _as_earlier(row: Mapping[str, Any]) -> dict[str, Any]:
    """At the end of a stream every edit is an earlier one."""
    return {**row, "kind": "retention"}


def _short(wave: WaveFacts) -> str:
    version = "" if wave.version is None else f", version {wave.version}"
    return f"{wave.num_edits} edits, {wave.status}{version}"


def _facts(wave: WaveFacts) -> Iterator[str]:
    if wave.commit is not None:
        commit = wave.commit
        why = f": {commit.why}" if commit.why else ""
        yield f"Committed {moment(commit.committed_at)} UTC by {commit.who}{why}. "
    if wave.reasons:
        yield f"Held by the gate for: {'; '.join(wave.reasons)}. "
    yield "Not measured here. " if wave.report is None else f"Measured: {say(wave.report)}. "
    yield "Its name: "
    yield tag("code", wave.key)
