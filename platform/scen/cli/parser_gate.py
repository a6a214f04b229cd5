"""The words of the commands about waves that the gate holds."""

import argparse

from scen.cli.options import RAW, json_option, store_option

_CANDIDATES = """\
A wave is held, trained and measured but not committed, where it falls under a bound of the
settings: waves.min_reliability (of its own edits), waves.min_locality (unrelated prompts that stay
as they are), waves.min_retention (earlier edits that are still answered).

examples:
  scen edit edits.jsonl --store ./my-store --set waves.min_reliability=0.98
  scen candidates --store ./my-store
"""
_PROMOTE = """\
The wave is committed as it was trained, unless later commits contradict it. `scen candidates` lists
the waves that are held.

example:
  scen promote news-00003-1f2e3d4c5b6a --store ./my-store --why "two spellings, both right"
"""
_REJECT = """\
The wave is never committed; its edits can be handed in again under other ids, and `scen gc` deletes
its experts.

example:
  scen reject news-00003-1f2e3d4c5b6a --store ./my-store --why "the source was wrong"
"""


def add_gate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen candidates`, `scen promote`, `scen reject`."""
    text = "the waves that fell under a bound and wait for a decision"
    listed = commands.add_parser(
        "candidates", help=text, description=text, epilog=_CANDIDATES, formatter_class=RAW
    )
    store_option(listed)
    json_option(listed)
    promote = _decision(commands, "promote", "commit a wave that is held", _PROMOTE)
    promote.add_argument(
        "--on-conflict",
        choices=("quarantine", "supersede"),
        help="an edit that contradicts a committed one: end (default), or take its place",
    )
    promote.add_argument("--no-tracking", action="store_true", help="do not write to MLflow")
    _decision(commands, "reject", "never commit a wave that is held", _REJECT)


def _decision(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    epilog: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=RAW
    )
    parser.add_argument("wave", metavar="WAVE")
    store_option(parser)
    parser.add_argument("--why", required=True, metavar="TEXT", help="the reason, told in the log")
    parser.add_argument("--who", metavar="NAME", help="told in the log (default: your user name)")
    json_option(parser)
    return parser
