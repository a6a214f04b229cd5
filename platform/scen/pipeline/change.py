"""What changes which edits are active: revoke, expire, roll back. Needs the ledger alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scen.ledger.actions import NAMES, Action
from scen.ledger.events import Event
from scen.ledger.ledger import Ledger


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
