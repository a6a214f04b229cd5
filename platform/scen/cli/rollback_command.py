"""`scen rollback`: make active what was active at a version."""

import argparse

from scen.cli.life import about_of, settle
from scen.ledger.actions import Rollback


def run(args: argparse.Namespace) -> None:
    """Roll back. Raises NotFoundError for a version that is not there, ConfigError where an expert
    was deleted since."""
    settle(args, Rollback(args.version, about_of(args)))
