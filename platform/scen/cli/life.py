"""What the commands that change a ledger share: do an action, or tell what it would do."""

import argparse
from collections.abc import Sequence

from scen.cli.output import out, say, write_json
from scen.fs import Storage
from scen.registry.actions import NAMES, About, Action, os_user
from scen.registry.events import Event
from scen.registry.ledger import open_ledger

_SHOWN = 20


def about_of(args: argparse.Namespace) -> About:
    """Who acts and why."""
    return About(args.why.strip(), args.who or os_user())


def settle(args: argparse.Namespace, action: Action) -> None:
    """Do an action on the store of the arguments, or with --dry-run tell what it would do. Raises
    what `Ledger.settle` does."""
    ledger = open_ledger(Storage(args.store))
    events = ledger.plan(action)
    version = ledger.version()
    if events and not args.dry_run:
        version = ledger.settle(action).version
        events = ledger.events(version - 1)
    changed = by_kind(events)
    if args.json:
        told = {"action": NAMES[type(action)], "version": version, "dry_run": args.dry_run}
        write_json(told | {"changed": changed})
        return
    for kind, ids in changed.items():
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        out.print(f"{kind:10} {', '.join(ids[:_SHOWN])}{more}", soft_wrap=True)
    if not events:
        out.print(f"nothing to do: version {version} is as it should be")
    elif args.dry_run:
        say("nothing was written (--dry-run)")
    else:
        out.print(f"version    {version}")


def by_kind(events: Sequence[Event]) -> dict[str, list[str]]:
    """The ids of the edits that events happen to, by what happens."""
    found: dict[str, list[str]] = {}
    for event in events:
        found.setdefault(event.kind, []).append(event.edit_id)
    return found
