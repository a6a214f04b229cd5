"""`scen expire`: apply `valid_from` and `valid_until`."""

import argparse
from datetime import UTC, datetime

from scen.cli.life import about_of, settle
from scen.ledger.actions import Expire


def run(args: argparse.Namespace) -> None:
    """Activate and deactivate what is due now, or at a moment."""
    settle(args, Expire(args.at or datetime.now(UTC), about_of(args)))
