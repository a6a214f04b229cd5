"""Change which edits are active, with the ledger alone: revoke, expire, roll back.

The rollback guard returns to an earlier version when evaluation falls below configured bounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scen.errors import ConfigError, ScenError
from scen.ledger.actions import NAMES, About, Action, Rollback
from scen.ledger.events import Event
from scen.ledger.ledger import Ledger
from scen.ledger.state import Snapshot


@dataclass(frozen=True, slots=True)
class Change:
    """What an action did, or with `dry_run` would do. `version` is the newest of the ledger, which
    holds it; `changed` has the ids of edits by what happened to them (revoked, restored ...), and
    nothing where there was nothing to do."""

    action: str
    version: int
    dry_run: bool
    changed: Mapping[str, Sequence[str]]


def change(ledger: Ledger, action: Action, *, dry_run: bool = False) -> Change:
    """Do an action, or tell what it would do. Raises what `Ledger.settle` does."""
    events = ledger.plan(action)
    version = ledger.version()
    if events and not dry_run:
        version = ledger.settle(action).version
        events = ledger.events(version - 1)
    return Change(NAMES[type(action)], version, dry_run, by_kind(events))


def by_kind(events: Sequence[Event]) -> dict[str, list[str]]:
    """The ids of the edits that events happen to, by what happens."""
    found: dict[str, list[str]] = {}
    for event in events:
        found.setdefault(event.kind, []).append(event.edit_id)
    return found


def guard(ledger: Ledger, reasons: list[str], measured: Snapshot, to: int | str) -> None:
    """Roll back to a version, or to the previous one, where a bound is broken and nobody has
    committed since. Raises ScenError that tells of it."""
    if not reasons:
        return
    why = f"version {measured.version}: {'; '.join(reasons)}"
    try:
        target = to if isinstance(to, int) else previous_version(ledger, measured)
    except ConfigError as err:
        raise ScenError(f"{why}; not rolled back: {err}") from err
    done = ledger.act(Rollback(target, About(why)), measured.version)
    how = "already as at" if done.already_committed else "rolled back to"
    raise ScenError(f"{why}; {how} {target} as version {done.version}")


def previous_version(ledger: Ledger, measured: Snapshot) -> int:
    """The version before the newest wave of which an edit is active. Raises ConfigError where there
    is none, or where it would bring back what was taken away since for a reason of its own."""
    newest = max((entry.version for entry in measured.entries), default=0)
    if newest == 0:
        raise ConfigError("no edit is active")
    gone, plan = measured.state.gone, ledger.plan(Rollback(newest - 1))
    back = [event.edit_id for event in plan if event.kind == "restored" and event.edit_id in gone]
    unwanted = [name for name in back if gone[name].status != "superseded"]
    if unwanted:
        raise ConfigError(
            f"version {newest - 1} would bring back {unwanted[:5]}, revoked or expired since; "
            "`scen revoke` the newest edits, or `scen rollback` to a version of your choice"
        )
    return newest - 1
