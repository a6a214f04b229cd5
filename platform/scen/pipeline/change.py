"""Change which edits are active, using the ledger only: revoke, expire, roll back.

The rollback guard returns to an earlier version when evaluation falls below configured bounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from scen.errors import ConfigError, ScenError
from scen.ledger.actions import NAMES, About, Action, Expire, Rollback
from scen.ledger.events import Event, Recalibrated
from scen.ledger.ledger import Ledger
from scen.ledger.state import Snapshot


@dataclass(frozen=True, slots=True)
class Change:
    """What an action did, or with `dry_run` would do. `version` is the newest of the ledger;
    `changed` maps kinds of change (revoked, restored ...) to edit ids, and is empty for a no-op."""

    action: str
    version: int
    dry_run: bool
    changed: Mapping[str, Sequence[str]]


def change(ledger: Ledger, action: Action, *, dry_run: bool = False) -> Change:
    """Do an action, or with `dry_run` plan it. Raises what `Ledger.settle` raises."""
    events = ledger.plan(action)
    version = ledger.version()
    if events and not dry_run:
        version = ledger.settle(action).version
        events = ledger.events(version - 1)
    return Change(NAMES[type(action)], version, dry_run, by_kind(events))


def expire_due(ledger: Ledger, moment: datetime) -> Change | None:
    """Apply `valid_from` and `valid_until` as of a moment (with time zone); None if no edit is due.
    Cheap while none is, so it may be called at any rate. Raises what `Ledger.settle` raises."""
    due = ledger.snapshot().state.next_due
    if due is None or due > moment:
        return None
    return change(ledger, Expire(moment, About("valid_from or valid_until is reached")))


def by_kind(events: Sequence[Event]) -> dict[str, list[str]]:
    """The edit ids of events, grouped by the kind of event; for a change of the router, the bundle
    of the new one."""
    ids: dict[str, list[str]] = {}
    for event in events:
        if isinstance(event, Recalibrated):
            ids[event.kind] = [event.router or "the router of the start"]
            continue
        ids.setdefault(event.kind, []).append(event.edit_id)
    return ids


def guard(ledger: Ledger, reasons: list[str], measured: Snapshot, to: int | str) -> None:
    """Roll back to a version, or to the previous one, if a bound is broken and there is no newer
    commit. Raises ScenError that reports it."""
    if not reasons:
        return
    why = f"version {measured.version}: {'; '.join(reasons)}"
    try:
        target = to if isinstance(to, int) else previous_version(ledger, measured)
    except ConfigError as err:
        raise ScenError(f"{why}; not rolled back: {err}") from err
    commit = ledger.act(Rollback(target, About(why)), measured.version)
    outcome = "already as at" if commit.already_committed else "rolled back to"
    raise ScenError(f"{why}; {outcome} {target} as version {commit.version}")


def previous_version(ledger: Ledger, measured: Snapshot) -> int:
    """The version before the newest wave that has an active edit. Raises ConfigError if there is
    none, or if that version would reactivate edits that were revoked or expired since."""
    newest = max((entry.version for entry in measured.entries), default=0)
    if newest == 0:
        raise ConfigError("no edit is active")
    gone, plan = measured.state.gone, ledger.plan(Rollback(newest - 1))
    restored = [e.edit_id for e in plan if e.kind == "restored" and e.edit_id in gone]
    unwanted = [edit_id for edit_id in restored if gone[edit_id].status != "superseded"]
    if unwanted:
        raise ConfigError(
            f"version {newest - 1} would bring back {unwanted[:5]}, revoked or expired since; "
            "`scen revoke` the newest edits, or `scen rollback` to a version of your choice"
        )
    return newest - 1
