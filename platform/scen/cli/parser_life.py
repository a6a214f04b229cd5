"""The words of the commands about the life of edits: what was done to them, and what to do next."""

import argparse

from scen.cli.options import RAW, base_options, count, json_option, moment, store_option
from scen.cli.parser_trust import add_sign, certificate_options, signature_options

_REVOKE = """\
The edits speak no more from the next version on, and their prompts are answered by the base again,
bit for bit where no other edit claims them. Their experts stay on storage, so that `scen rollback`
can bring them back, until `scen gc` deletes them. All of the edits are revoked, or none.

examples:
  scen revoke mayor-paris --store ./my-store --why "the source was wrong"
  scen revoke e17 e18 --store ./my-store --why "withdrawn" --dry-run
  scen revoke e17 --store ./my-store --why "withdrawn" --certificate e17.json
"""
_EXPIRE = """\
Edits may say from when and until when they are valid (`valid_from` and `valid_until` in the file
of edits). This command activates scheduled edits that have reached the first and deactivates those
that are past the second; run it from a timer. Nothing is committed where none is due.

examples:
  scen expire --store ./my-store
  scen expire --store ./my-store --at 2027-01-01 --dry-run
"""
_ROLLBACK = """\
Makes active what was active at VERSION, and nothing else, as one new version: history is never
rewritten, and a rollback can be rolled back. `scen log` lists the versions, `scen diff` tells what
is different between two of them.

examples:
  scen rollback 12 --store ./my-store --why "wave 13 broke the street names"
  scen rollback 0 --store ./my-store --why "back to the base" --dry-run
"""
_DIFF = """\
examples:
  scen diff 12 13 --store ./my-store                  edits that came, went or were replaced
  scen diff 12 13 --store ./my-store --answers        and which answers to their prompts change
"""
_LOG = """\
examples:
  scen log --store ./my-store --action revoke --since 2026-11-01
  scen log --store ./my-store --edit mayor-paris      the commits that touched one edit
  scen log --store ./my-store --parquet audit.parquet one row per event of an edit, for your tools
"""
_VERIFY = """\
Reads every log file, data file and bundle, and checks each against its digest and against the
others. Damage ends with exit code 7. Orphans are files that nothing needs, such as those of a run
that was killed; they are no damage.
"""
_GC = """\
Deletes the bundles of which no edit is active at any version that stays, and what runs left behind
that were killed: bundles, and files of the ledger. These versions stay: the newest, all of the last
--keep-days days, those of --keep-version, those that are pinned (as MLflow's aliases are), the one
that the server's policy holds or tries (POST /v1/snapshots/12:activate or 12:canary), and those
that running servers answer from. An edit whose expert was deleted stays in the log and cannot be
rolled back to; the ledger is told so before a file is deleted.

A bundle holds the experts of a whole wave and goes when all of them may go. The ledger keeps the
text of all edits: to erase personal data, make a new store from the edits that stay (`scen rebase
--help`), and delete this one.

examples:
  scen gc --store ./my-store --dry-run
  scen gc --store ./my-store --keep-days 7 --keep-version 12
"""
_PUBLISH = """\
The edits of a stream (a tenant's, say) are seen by that stream alone: `snapshot`, `delta`, `lookup`
and `propose` of the store's registry, asked for another stream, leave them out. A published stream
is seen by all, such as one of facts that hold for every tenant. This is about what is shown, not
about what is answered: all edits of a store are in one model. For answers that one tenant alone may
have, take a store of its own.

examples:
  scen publish news --store ./my-store
  scen unpublish news --store ./my-store        it is seen by itself alone again
"""


def add_life(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """All of them."""
    _add_revoke(commands)
    _add_expire(commands)
    _add_rollback(commands)
    _add_diff(commands)
    _add_log(commands)
    _add_show(commands)
    _add_publish(commands)
    _add_verify(commands)
    add_sign(commands)
    _add_gc(commands)


def _add_revoke(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    revoke = _command(commands, "revoke", "take edits away: the base answers again", _REVOKE)
    revoke.add_argument("edit_ids", nargs="+", metavar="EDIT_ID")
    store_option(revoke)
    _about_options(revoke)
    certificate_options(revoke)


def _add_expire(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    expire = _command(commands, "expire", "apply valid_from and valid_until of edits", _EXPIRE)
    store_option(expire)
    expire.add_argument("--at", type=moment, metavar="TIME", help="a moment (default: now)")
    _about_options(expire, why="valid_from or valid_until is reached")


def _add_rollback(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    rollback = _command(commands, "rollback", "make active what was active at a version", _ROLLBACK)
    rollback.add_argument("version", type=int, metavar="VERSION")
    store_option(rollback)
    _about_options(rollback)


def _add_diff(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "what is different between two versions"
    diff = _command(commands, "diff", text, _DIFF)
    diff.add_argument("before", type=int, metavar="V1")
    diff.add_argument("after", type=int, metavar="V2")
    store_option(diff)
    diff.add_argument(
        "--answers", action="store_true", help="ask both versions the prompts of these edits"
    )
    diff.add_argument("--max-new-tokens", type=count, default=64, metavar="N")
    base_options(diff)
    json_option(diff)


def _add_log(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "the commits of a store, oldest first: what was done, by whom, when and why"
    log = _command(commands, "log", text, _LOG)
    store_option(log)
    add = log.add_argument
    add("--stream", metavar="NAME", help="those that touched edits of this stream")
    add("--action", choices=("commit", "revoke", "expire", "rollback", "gc"))
    add("--since", type=moment, metavar="TIME", help="a date, or a moment with its time zone")
    add("--edit", metavar="EDIT_ID", help="those that touched this edit")
    add("--last", type=count, metavar="N", help="the newest N only")
    add("--parquet", metavar="FILE", help="write the events of these commits, one a row")
    json_option(log)


def _add_show(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "everything that is known of one edit, and all that happened to it"
    show = _command(commands, "show", text, None)
    show.add_argument("edit_id", metavar="EDIT_ID")
    store_option(show)
    json_option(show)


def _add_publish(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, text in (
        ("publish", "let all streams of a store see the edits of one"),
        ("unpublish", "let a stream's edits be seen by itself alone again"),
    ):
        published = _command(commands, name, text, _PUBLISH)
        published.add_argument("stream", metavar="STREAM")
        store_option(published)
        json_option(published)


def _add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "check that all of a store is there and as it was written"
    verify = _command(commands, "verify", text, _VERIFY)
    store_option(verify)
    signature_options(verify)
    json_option(verify)


def _add_gc(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "delete the experts, and other files, that no version needs that is to stay"
    gc = _command(commands, "gc", text, _GC)
    store_option(gc)
    gc.add_argument(
        "--keep-days", type=_days, default=30.0, metavar="D", help="default: 30; 0: the newest only"
    )
    gc.add_argument(
        "--keep-version",
        type=int,
        action="append",
        default=[],
        metavar="V",
        dest="keep_versions",
        help="such as one that a model alias names; may be repeated",
    )
    _about_options(gc, why="no version that stays needs them")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    epilog: str | None,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=RAW
    )


def _about_options(parser: argparse.ArgumentParser, why: str | None = None) -> None:
    """--why (required where there is no `why` to go by), --who, --dry-run and --json."""
    parser.add_argument(
        "--why",
        required=why is None,
        default=why,
        metavar="TEXT",
        help="the reason, told in the log" + (f" (default: {why})" if why else ""),
    )
    parser.add_argument("--who", metavar="NAME", help="told in the log (default: your user name)")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be done, and end")
    json_option(parser)


def _days(text: str) -> float:
    """A number of days, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days, such as 30")
    return value
