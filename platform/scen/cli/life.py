"""What the commands that change a ledger share: do an action, or tell what it would do."""

import argparse
from dataclasses import asdict

from scen.cli.output import out, say, write_json
from scen.fs import Storage
from scen.ledger.actions import About, Action, os_user
from scen.ledger.ledger import open_ledger
from scen.pipeline.change import change

_SHOWN = 20


def about_of(args: argparse.Namespace) -> About:
    """Who acts and why."""
    return About(args.why.strip(), args.who or os_user())


def settle(args: argparse.Namespace, action: Action) -> None:
    """Do an action on the store of the arguments, or with --dry-run tell what it would do. Raises
    what `Ledger.settle` does."""
    done = change(open_ledger(Storage(args.store)), action, dry_run=args.dry_run)
    if args.json:
        write_json(asdict(done))
        return
    for kind, ids in done.changed.items():
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        out.print(f"{kind:10} {', '.join(ids[:_SHOWN])}{more}", soft_wrap=True)
    if not done.changed:
        out.print(f"nothing to do: version {done.version} is as it should be")
    elif done.dry_run:
        say("nothing was written (--dry-run)")
    else:
        out.print(f"version    {done.version}")
