"""The active edits of a store, trained anew on another base, or without some of them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from scen.config import Config
from scen.data import Rejection
from scen.data.files import locate_input
from scen.data.rows import RawRow
from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.events import LedgerEntry
from scen.ledger.ledger import open_ledger
from scen.pipeline.apply import EditJob, EditReport, ReadEdits, Sink, apply_streams
from scen.pipeline.local import LocalParts
from scen.pipeline.runtime import Runtime, make_validator
from scen.records import Edit, edit_to_dict

_BATCH = 1000


@dataclass(frozen=True)
class RebaseJob:
    """The edits that are active or scheduled at a version of the store `old` (None: the newest),
    but those that stay behind (ids in `without`)."""

    old: str
    version: int | None = None
    without: Collection[str] = ()
    locality: str | None = None
    is_tracked: bool = True


def rebase(
    job: RebaseJob, new: Storage, config: Config, runtime: Runtime | None = None
) -> EditReport:
    """Read the old ledger, fill the new store. Raises ScenError."""
    runtime, old = runtime or Runtime(), Storage(job.old)
    if old.uri == new.uri:
        raise ConfigError("--store: the edits need a store of their own, not the one they are in")
    ledger = open_ledger(old)
    snapshot = ledger.snapshot(job.version)
    for edit_id in job.without:
        ledger.history(edit_id)  # a wrong id must not leave anybody in the belief that it is erased
    valid = (*snapshot.entries, *snapshot.state.scheduled)
    entries = [entry for entry in valid if entry.edit_id not in set(job.without)]
    if not entries:
        raise ConfigError(f"{job.old}: no edit to take is active at version {snapshot.version}")
    if job.locality is not None:
        locate_input(job.locality)
    runtime.say(f"{len(entries)} edits of {old.uri} at version {snapshot.version} are taken")
    held: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        held.setdefault(entry.stream, []).append(entry)
    streams: dict[str, ReadEdits] = {
        name: partial(_read, entries) for name, entries in held.items()
    }
    how = EditJob(job.old, locality=job.locality, is_tracked=job.is_tracked)
    return apply_streams(streams, how, new, config, runtime)[0]


def _read(entries: Sequence[LedgerEntry], parts: LocalParts, sink: Sink) -> Iterator[list[Edit]]:
    """The edits that the other base can learn; the others are rejected."""
    validator = make_validator(parts, allow_null_text=True)
    for begin in range(0, len(entries), _BATCH):
        fine: list[Edit] = []
        for number, entry in enumerate(entries[begin : begin + _BATCH], begin + 1):
            values = edit_to_dict(entry.edit)
            checked = validator.check(RawRow(number, values, fields=values))
            if isinstance(checked, Rejection):
                sink.reject([checked])
                continue
            sink.rows[checked.id] = number
            fine.append(checked)
        yield fine
