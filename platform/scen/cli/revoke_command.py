"""`scen revoke`: take edits away."""

import argparse

from scen.cli.life import about_of, settle
from scen.cli.trust_command import still_valid, write_certificate
from scen.ledger.actions import Revoke


def run(args: argparse.Namespace) -> None:
    """Revoke all of these edits, or none. Raises NotFoundError, ConfigError."""
    edit_ids = still_valid(args) if args.certificate else args.edit_ids
    if edit_ids:
        settle(args, Revoke(edit_ids, about_of(args)))
    if args.certificate and not args.dry_run:
        write_certificate(args)
