"""`scen revoke`: take edits away."""

import argparse

from scen.cli.life import about_of, settle
from scen.ledger.actions import Revoke


def run(args: argparse.Namespace) -> None:
    """Revoke all of these edits, or none. Raises NotFoundError, ConfigError."""
    settle(args, Revoke(args.edit_ids, about_of(args)))
