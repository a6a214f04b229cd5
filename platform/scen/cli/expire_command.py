"""`scen expire`: take away the edits whose time is over."""

import argparse
from datetime import UTC, datetime

from scen.cli.life import about_of, settle
from scen.ledger.actions import Expire


def run(args: argparse.Namespace) -> None:
    """Expire what is due now, or at a moment."""
    settle(args, Expire(args.at or datetime.now(UTC), about_of(args)))
