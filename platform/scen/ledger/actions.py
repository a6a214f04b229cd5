"""The actions on a ledger and the events that they commit; each action is one commit."""

import getpass
import re
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from scen.errors import ConfigError, NotFoundError
from scen.ledger.events import (
    Activated,
    Committed,
    Dropped,
    Event,
    Expired,
    LedgerEntry,
    Recalibrated,
    Restored,
    Revoked,
    Scheduled,
    Superseded,
    fact_key,
    in_utc,
    prompt_key,
    target_key,
)
from scen.ledger.state import State
from scen.ledger.table import EditTexts
from scen.records import Edit

_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


def os_user() -> str:
    """The user name of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@dataclass(frozen=True)
class WaveCommit:
    """A wave to commit: edit i is in row i of the bundle. `supersedes` maps the id of an older
    edit to that of the edit in this wave that replaces it. Edits whose `valid_from` is
    after `as_of` (None: the moment of the commit) are scheduled. `metadata` (metrics) goes to the
    log. `epoch` is that of the writer, if it has one."""

    wave_key: str
    stream: str
    wave: int
    bundle: str
    edits: Sequence[Edit]
    metadata: Mapping[str, str] = field(default_factory=dict)
    supersedes: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    who: str = field(default_factory=os_user)
    epoch: int | None = None
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class About:
    """Who acts and why. Actions with the same `action_id` are committed once. `epoch` is that of
    the writer, if it has one."""

    why: str = ""
    who: str = field(default_factory=os_user)
    action_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Revoke:
    """Deactivate these edits."""

    edit_ids: Collection[str]
    about: About = field(default_factory=About)


@dataclass(frozen=True, slots=True)
class Expire:
    """Apply `valid_until` and `valid_from` as of a moment (with time zone): deactivate the edits
    that are past the first, activate the scheduled ones that have reached the second."""

    moment: datetime
    about: About = field(default_factory=About)


@dataclass(frozen=True, slots=True)
class Rollback:
    """Make exactly those edits active that were active at version `to`, under its router."""

    to: int
    about: About = field(default_factory=About)


@dataclass(frozen=True, slots=True)
class Drop:
    """Record that the experts of these inactive edits are about to be deleted."""

    edit_ids: Collection[str]
    about: About = field(default_factory=About)


@dataclass(frozen=True, slots=True)
class Recalibrate:
    """Route with another router: the bundle `router` (sha256 in hex). `profile` is JSON, how it was
    made (see `StoreManifest.profile`)."""

    router: str
    profile: str
    about: About = field(default_factory=About)


Action = Revoke | Expire | Rollback | Drop | Recalibrate
NAMES: Mapping[type[Action], str] = {
    Revoke: "revoke",
    Expire: "expire",
    Rollback: "rollback",
    Drop: "gc",
    Recalibrate: "calibrate",
}


def check_wave(commit: WaveCommit) -> None:
    """Raises ConfigError for an invalid wave."""
    check_key("wave_key", commit.wave_key)
    if not commit.edits:
        raise ConfigError(f"wave {commit.wave_key}: has no edits")
    counts = Counter(edit.id for edit in commit.edits)
    duplicates = [edit_id for edit_id, count in counts.items() if count > 1]
    if duplicates:
        raise ConfigError(f"wave {commit.wave_key}: {duplicates[:5]} are in it more than once")
    unknown_ids = sorted(set(commit.supersedes.values()) - set(counts))
    if unknown_ids:
        raise ConfigError(f"wave {commit.wave_key}: supersedes: {unknown_ids[:5]} are not in it")


def check_key(field_name: str, key: str) -> None:
    """Raises ConfigError for a key that cannot be a name on storage."""
    if not _KEY.fullmatch(key):
        raise ConfigError(f"{field_name}: {key!r} must match {_KEY.pattern}")


def wave_events(commit: WaveCommit, state: State, version: int, at: datetime) -> list[Event]:
    """The events of a wave committed as `version`. Raises ConfigError for edits that are already
    in the ledger."""
    taken = [edit.id for edit in commit.edits if edit.id in state.entries]
    if taken:
        raise ConfigError(f"edits: {sorted(taken)[:5]} are in the ledger already")
    texts = EditTexts.of(commit.edits)
    events: list[Event] = [
        Committed(_entry(commit, row, version, at, texts), version)
        for row in range(len(commit.edits))
    ]
    as_of = commit.as_of or at
    events += [Scheduled(e.id, version) for e in commit.edits if starts_after(e, as_of)]
    events += [Superseded(older, version, newer) for older, newer in commit.supersedes.items()]
    return events


def action_events(action: Action, state: State, version: int, target: State) -> list[Event]:
    """The events of an action committed as `version`; `target` is the state that a rollback
    returns to. Empty if the action has no effect. Raises NotFoundError for unknown ids."""
    if isinstance(action, Rollback):
        return _rollback_events(state, version, target)
    if isinstance(action, Expire):
        return _timer_events(action.moment, state, version)
    if isinstance(action, Recalibrate):
        return _router_events(state, version, action.router)
    unknown = [edit_id for edit_id in action.edit_ids if edit_id not in state.entries]
    if unknown:
        raise NotFoundError(f"edit: {unknown[:5]} are not in the ledger")
    kind = Revoked if isinstance(action, Revoke) else Dropped
    return [kind(edit_id, version) for edit_id in dict.fromkeys(action.edit_ids)]


def starts_after(edit: Edit, moment: datetime) -> bool:
    """True if an edit is not yet valid at a moment (with time zone)."""
    start = in_utc(edit.valid_from)
    return start is not None and start > moment


def _timer_events(moment: datetime, state: State, version: int) -> list[Event]:
    """Expirations first, those of scheduled edits included; then activations in the order of
    `valid_from`, each superseding the active edits of the same prompt or a contradicting fact."""
    expired = {
        entry.edit_id
        for entry in (*state.active, *state.scheduled)
        if entry.valid_until is not None and entry.valid_until <= moment
    }
    events: list[Event] = [Expired(name, version) for name in state.entries if name in expired]
    scheduled_now = [entry for entry in state.scheduled if entry.edit_id not in expired]
    starts = {entry.edit_id: entry.valid_from or moment for entry in scheduled_now}
    due = [entry for entry in scheduled_now if starts[entry.edit_id] <= moment]
    activated: list[LedgerEntry] = []
    for entry in sorted(due, key=lambda entry: starts[entry.edit_id]):
        events.append(Activated(entry.edit_id, version))
        for older in [*state.active_about(entry.keys), *activated]:
            if older.edit_id not in expired and gives_way(older, entry):
                events.append(Superseded(older.edit_id, version, entry.edit_id))
                expired.add(older.edit_id)
        activated.append(entry)
    return events


def gives_way(older: LedgerEntry, newer: LedgerEntry) -> bool:
    """True if an edit cannot be active together with a newer one: it has the same prompt, or
    another target for the same fact."""
    if older.prompt_key == newer.prompt_key:
        return True
    is_same_fact = older.fact_key is not None and older.fact_key == newer.fact_key
    return is_same_fact and older.target_key != newer.target_key


def _rollback_events(state: State, version: int, target: State) -> list[Event]:
    """The events that make the active and scheduled edits those of the target."""
    wanted = {entry.edit_id for entry in (*target.active, *target.scheduled)}
    scheduled_now = {entry.edit_id for entry in state.scheduled}
    events: list[Event] = [
        Revoked(entry.edit_id, version)
        for entry in (*state.active, *state.scheduled)
        if entry.edit_id not in wanted
    ]
    for entry in target.active:
        if not state.is_active(entry.edit_id):
            kind = Activated if entry.edit_id in scheduled_now else Restored
            events.append(kind(entry.edit_id, version))
    later = [entry.edit_id for entry in target.scheduled if entry.edit_id not in scheduled_now]
    events += [Scheduled(edit_id, version) for edit_id in later]
    return events + _router_events(state, version, target.router)


def _router_events(state: State, version: int, router: str | None) -> list[Event]:
    return [] if state.router == router else [Recalibrated(version, router)]


def _entry(
    commit: WaveCommit, row: int, version: int, at: datetime, texts: EditTexts
) -> LedgerEntry:
    edit = commit.edits[row]
    return LedgerEntry(
        texts=texts,
        edit_id=edit.id,
        digest=edit.digest,
        prompt_key=prompt_key(edit),
        fact_key=fact_key(edit),
        target_key=target_key(edit),
        valid_until=in_utc(edit.valid_until),
        stream=commit.stream,
        wave=commit.wave,
        wave_key=commit.wave_key,
        bundle=commit.bundle,
        row=row,
        version=version,
        committed_at=at,
    )
