"""The words of `scen eval`."""

import argparse

from scen.cli.options import (
    RAW,
    base_options,
    config_options,
    count,
    json_option,
    store_option,
)

PREVIOUS = "previous"
_EPILOG = """\
With --else-rollback this guards what is served: where a figure is below waves.min_reliability or
waves.min_locality, the store is rolled back and the command fails, so that whoever runs it hears of
it. `previous` is the version before the newest wave of which an edit is active: run again, it goes
back wave by wave until the bounds hold. It does nothing where that would bring back edits that were
revoked or expired since. Servers that follow the newest version swap the new one in by themselves.

examples:
  scen eval --store ./my-store
  scen eval --store ./my-store --edits probes.jsonl --version 12
  scen eval --store ./my-store --asking --limit 200
  scen eval --store ./my-store --set waves.min_reliability=0.95 --else-rollback previous

every ten minutes, by cron (in one line):
  */10 * * * *  scen eval --store s3://bucket/store --edits probes.jsonl --json
                --set waves.min_reliability=0.95 --set waves.min_locality=0.99
                --else-rollback previous >> scen-guard.log
"""


def add_eval(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen eval`."""
    text = "measure all committed edits, or those of a file, on the newest version"
    evaluation = commands.add_parser(
        "eval", help=text, description=text, epilog=_EPILOG, formatter_class=RAW
    )
    store_option(evaluation)
    add = evaluation.add_argument
    add("--edits", metavar="FILE", help="measure these (default: the ledger's)")
    add("--locality", metavar="FILE", help="prompts that no edit may change (default: a sample)")
    add("--version", type=int, metavar="V", help="a ledger version")
    add("--limit", type=count, metavar="N", help="the first N edits only")
    add(
        "--asking",
        action="store_true",
        help="also put each edit's question in about twenty ways of asking (greetings, quotes, "
        "capitals, typos, system prompts ...), and tasks about it that must reach no edit",
    )
    add(
        "--else-rollback",
        type=_target,
        metavar="V",
        help="roll back to this version, or to `previous`, and fail, where a figure is below "
        "waves.min_reliability or waves.min_locality",
    )
    base_options(evaluation)
    config_options(evaluation)
    json_option(evaluation)


def _target(text: str) -> int | str:
    """A version, or the word for the one before the newest wave."""
    if text == PREVIOUS:
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a version nor previous") from None
