"""What may be done to a ledger, and the events that each action comes to: one commit each."""

import getpass
import re
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from scen.errors import ConfigError, NotFoundError
from scen.ledger.events import (
    Committed,
    Dropped,
    Event,
    Expired,
    LedgerEntry,
    Restored,
    Revoked,
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
    """The name of the user of this process, as the operating system has it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@dataclass(frozen=True)
class WaveCommit:
    """A wave as it is committed: edit i lies in row i of the bundle. `supersedes` maps the id of an
    older edit to that of the edit in this wave that takes its place. `metadata` (metrics) goes to
    the log. `epoch` is the writer's, where writers have one."""

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


@dataclass(frozen=True, slots=True)
class About:
    """Who acts and why. An action of the same `action_id` is done once, however often it is
    tried. `epoch` is the writer's, where writers have one."""

    why: str = ""
    who: str = field(default_factory=os_user)
    action_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Revoke:
    """Take these active edits away."""

    edit_ids: Collection[str]
    about: About = field(default_factory=About)


@dataclass(frozen=True, slots=True)
class Expire:
    """Take away the active edits whose `valid_until` is not after a moment (with time zone)."""

    moment: datetime
    about: About = field(default_factory=About)


@dataclass(frozen=True, slots=True)
class Rollback:
    """Make active what was active at version `to`, and nothing else."""

    to: int
    about: About = field(default_factory=About)


@dataclass(frozen=True, slots=True)
class Drop:
    """Note that the experts of these edits, none of them active, are to be deleted."""

    edit_ids: Collection[str]
    about: About = field(default_factory=About)


Action = Revoke | Expire | Rollback | Drop
NAMES: Mapping[type[Action], str] = {
    Revoke: "revoke",
    Expire: "expire",
    Rollback: "rollback",
    Drop: "gc",
}


def check_wave(commit: WaveCommit) -> None:
    """Raises ConfigError for a wave that is wrong in itself."""
    check_key("wave_key", commit.wave_key)
    if not commit.edits:
        raise ConfigError(f"wave {commit.wave_key}: has no edits")
    counts = Counter(edit.id for edit in commit.edits)
    twice = [edit_id for edit_id, count in counts.items() if count > 1]
    if twice:
        raise ConfigError(f"wave {commit.wave_key}: {twice[:5]} are in it more than once")
    strangers = sorted(set(commit.supersedes.values()) - set(counts))
    if strangers:
        raise ConfigError(f"wave {commit.wave_key}: supersedes: {strangers[:5]} are not in it")


def check_key(field_name: str, key: str) -> None:
    """Raises ConfigError for a key that could not be a name on storage."""
    if not _KEY.fullmatch(key):
        raise ConfigError(f"{field_name}: {key!r} must match {_KEY.pattern}")


def wave_events(commit: WaveCommit, state: State, version: int, at: datetime) -> list[Event]:
    """A wave is committed as `version`. Raises ConfigError for edits that are in the ledger."""
    taken = [edit.id for edit in commit.edits if edit.id in state.entries]
    if taken:
        raise ConfigError(f"edits: {sorted(taken)[:5]} are in the ledger already")
    texts = EditTexts.of(commit.edits)
    events: list[Event] = [
        Committed(_entry(commit, row, version, at, texts), version)
        for row in range(len(commit.edits))
    ]
    events += [Superseded(older, version, newer) for older, newer in commit.supersedes.items()]
    return events


def action_events(action: Action, state: State, version: int, target: State) -> list[Event]:
    """An action is done as `version`; `target` is the state that a rollback leads to. No events
    where there is nothing to do. Raises NotFoundError for ids that the ledger does not hold."""
    if isinstance(action, Rollback):
        return _rollback_events(state, version, target)
    if isinstance(action, Expire):
        due = [
            entry.edit_id
            for entry in state.active
            if entry.valid_until is not None and entry.valid_until <= action.moment
        ]
        return [Expired(edit_id, version) for edit_id in due]
    unknown = [edit_id for edit_id in action.edit_ids if edit_id not in state.entries]
    if unknown:
        raise NotFoundError(f"edit: {unknown[:5]} are not in the ledger")
    kind = Revoked if isinstance(action, Revoke) else Dropped
    return [kind(edit_id, version) for edit_id in dict.fromkeys(action.edit_ids)]


def _rollback_events(state: State, version: int, target: State) -> list[Event]:
    events: list[Event] = [
        Revoked(entry.edit_id, version)
        for entry in state.active
        if not target.is_active(entry.edit_id)
    ]
    back = [entry.edit_id for entry in target.active if not state.is_active(entry.edit_id)]
    return events + [Restored(edit_id, version) for edit_id in back]


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
