"""Lifecycle commands: `revoke`, `expire`, `rollback`; `log`, `show`, `diff`."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from scen.cli.options import (
    POSITIVE,
    BaseOptions,
    DryRun,
    Json,
    MaxNewTokens,
    Store,
    Who,
    Why,
    parsed,
    read_config,
    read_moment,
    room,
)
from scen.cli.output import facts_table, line, make_table, out, say, shorten, write_json

if TYPE_CHECKING:
    from scen.ledger.actions import About, Action
    from scen.ledger.state import Diff

_NUM_SHOWN = 20
_HISTORY = ("version", "event", "by", "at", "who", "why")
app, _, command = room("Life of edits", 3)


@command
def revoke(
    edit_ids: Annotated[list[str], Parameter(name="EDIT_ID")],
    /,
    *,
    store: Store,
    why: Why,
    who: Who = None,
    certificate: Annotated[
        Path | None,
        Parameter(metavar="FILE", help="write a certificate of revocation as JSON, for auditors; "
                  "also for edits that are revoked already"),
    ] = None,
    no_base: Annotated[bool, Parameter(help="certificate: do not run the prompts")] = False,
    dry_run: DryRun = False,
    base: BaseOptions | None = None,
    json: Json = False,
) -> None:  # fmt: skip
    """withdraw edits: the base answers again

    From the next version on, the base answers the prompts of these edits again,
    bit for bit unless another edit matches them. Their experts stay in storage,
    so that `scen rollback` can restore them, until `scen gc` deletes them. All
    of the edits are revoked, or none.

    examples:
      scen revoke mayor-paris --store ./my-store --why "the source was wrong"
      scen revoke e17 e18 --store ./my-store --why "withdrawn" --dry-run
      scen revoke e17 --store ./my-store --why "withdrawn" --certificate e17.json
    """
    from scen.cli.base import still_valid, write_certificate
    from scen.ledger.actions import Revoke

    active = still_valid(store, edit_ids) if certificate else edit_ids
    if active:
        _change(store, Revoke(active, about(why, who)), dry_run=dry_run, is_json=json)
    if certificate and not dry_run:
        options = None if no_base else base or BaseOptions()
        write_certificate(store, edit_ids, certificate, options)


@command
def expire(
    *,
    store: Store,
    at: Annotated[
        datetime | None, parsed(read_moment), Parameter(metavar="TIME", help="default: now")
    ] = None,
    why: Why = "valid_from or valid_until is reached",
    who: Who = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """apply valid_from and valid_until of edits

    Edits may have a period of validity (`valid_from` and `valid_until` in the
    edits file). This command activates scheduled edits past their valid_from and
    deactivates edits past their valid_until; run it from a timer. Nothing is
    committed if no edit is due.

    examples:
      scen expire --store ./my-store
      scen expire --store ./my-store --at 2027-01-01 --dry-run
    """
    from scen.ledger.actions import Expire

    moment = at or datetime.now(UTC)
    _change(store, Expire(moment, about(why, who)), dry_run=dry_run, is_json=json)


@command
def rollback(
    version: int,
    /,
    *,
    store: Store,
    why: Why,
    who: Who = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """return to the active edits of an earlier version

    Activates exactly the edits of VERSION, as one new version: history is never
    rewritten, and a rollback can be rolled back. `scen log` lists the
    versions, `scen diff` compares two of them.

    examples:
      scen rollback 12 --store ./my-store --why "wave 13 broke the street names"
      scen rollback 0 --store ./my-store --why "back to the base" --dry-run
    """
    from scen.ledger.actions import Rollback

    _change(store, Rollback(version, about(why, who)), dry_run=dry_run, is_json=json)


@command
def log(
    *,
    store: Store,
    stream: Annotated[
        str | None, Parameter(metavar="NAME", help="commits that touched edits of this stream")
    ] = None,
    action: Annotated[
        Literal["commit", "revoke", "expire", "rollback", "gc", "calibrate"] | None,
        Parameter(help="commits of this kind"),
    ] = None,
    since: Annotated[
        datetime | None,
        parsed(read_moment),
        Parameter(metavar="TIME", help="a date, or a time with its time zone"),
    ] = None,
    edit: Annotated[
        str | None, Parameter(metavar="EDIT_ID", help="commits that touched this edit")
    ] = None,
    last: Annotated[int | None, POSITIVE, Parameter(metavar="N", help="only the newest N")] = None,
    parquet: Annotated[
        str | None,
        Parameter(metavar="FILE", help="write the events of these commits, one per row"),
    ] = None,
    json: Json = False,
) -> None:
    """list the commits of a store, oldest first: what was done, by whom, when and why

    examples:
      scen log --store ./my-store --action revoke --since 2026-11-01
      scen log --store ./my-store --edit mayor-paris     commits of one edit
      scen log --store ./my-store --parquet audit.parquet     events, for your tools
    """
    from scen.fs import Storage
    from scen.ledger.ledger import open_ledger
    from scen.pipeline.inspect_ledger import find_commits, write_audit
    from scen.snapshot.method import describe_profile

    ledger = open_ledger(Storage(store))
    entries = find_commits(
        ledger, edit_id=edit, stream=stream, action=action, since=since, last=last
    )
    if parquet:
        num_rows = write_audit(parquet, ledger.events(), entries)
        say(f"{num_rows} events of {len(entries)} commits are in {parquet}")
    commits = [asdict(entry) for entry in entries]
    base, profile = ledger.manifest.base, ledger.profile(ledger.snapshot())
    if json:
        facts = {"version": ledger.version(), "base": dict(base), "profile": dict(profile)}
        write_json(facts | {"commits": commits})
        return
    line(f"base {base['name']}, fingerprint {base['fingerprint'][:12]}")
    line(f"router {describe_profile(profile)}")
    out.print(_log_table(commits))


@command
def show(
    edit_id: Annotated[str, Parameter(name="EDIT_ID")],
    /,
    *,
    store: Store,
    json: Json = False,
) -> None:
    """show an edit and its history"""
    from scen.fs import Storage
    from scen.ledger.ledger import open_ledger
    from scen.pipeline.inspect_ledger import edit_facts

    facts = edit_facts(open_ledger(Storage(store)), edit_id)
    if json:
        write_json(facts)
        return
    history = facts.pop("history")
    out.print(facts_table({n: v for n, v in facts.items() if v not in (None, [], {}, ())}))
    rows = ([str(row[name] or "") for name in _HISTORY] for row in history)
    out.print(make_table(_HISTORY, rows, title="History"))


@command
def diff(
    before: Annotated[int, Parameter(name="V1")],
    after: Annotated[int, Parameter(name="V2")],
    /,
    *,
    store: Store,
    answers: Annotated[
        bool, Parameter(help="also compare the answers of both versions to these edits' prompts")
    ] = False,
    max_new_tokens: MaxNewTokens = 64,
    base: BaseOptions | None = None,
    json: Json = False,
) -> None:
    """show the difference between two versions

    examples:
      scen diff 12 13 --store ./my-store            edits that were added, removed
                                                    or replaced
      scen diff 12 13 --store ./my-store --answers  and which answers change
    """
    from scen.fs import Storage
    from scen.ledger.ledger import open_ledger
    from scen.ledger.state import diff_snapshots
    from scen.pipeline.inspect_ledger import diff_facts

    ledger = open_ledger(Storage(store))
    versions = [ledger.snapshot(before), ledger.snapshot(after)]
    difference = diff_snapshots(*versions)
    facts = diff_facts(difference) | {"before": before, "after": after}
    if answers:
        from scen.pipeline.inspect_ledger import changed_answers
        from scen.snapshot.open import open_store

        config = read_config(base=(base or BaseOptions()).settings())
        opened = open_store(Storage(store), config.base, say)
        facts["answers"] = changed_answers(opened, difference, versions, max_new_tokens)
    if json:
        write_json(facts)
        return
    out.print(_diff_table(difference, f"Version {before} to {after}"))
    if answers:
        heads = ("prompt", "before", "after")
        rows = ([shorten(row[name]) for name in heads] for row in facts["answers"])
        out.print(make_table(heads, rows, title=f"{len(facts['answers'])} answers change"))


def about(why: str, who: str | None) -> "About":
    """The author and the reason of an action."""
    from scen.ledger.actions import About, os_user

    return About(why.strip(), who or os_user())


def _change(store: str, action: "Action", *, dry_run: bool, is_json: bool) -> None:
    """Do an action on a store, or with `dry_run` plan it, and print the result. Raises what
    `Ledger.settle` raises."""
    from scen.fs import Storage
    from scen.ledger.ledger import open_ledger
    from scen.pipeline.change import change

    done = change(open_ledger(Storage(store)), action, dry_run=dry_run)
    if is_json:
        write_json(asdict(done))
        return
    for kind, ids in done.changed.items():
        more = f" and {len(ids) - _NUM_SHOWN} more" if len(ids) > _NUM_SHOWN else ""
        line(f"{kind:10} {', '.join(ids[:_NUM_SHOWN])}{more}")
    if not done.changed:
        out.print(f"nothing to do at version {done.version}")
    elif done.dry_run:
        say("nothing was written (--dry-run)")
    else:
        out.print(f"version    {done.version}")


def _log_table(commits: list[dict[str, Any]]) -> Table:
    heads = ("version", "committed", "action", "stream", "edits", "who", "why", "reliability")
    rows = (
        (
            str(commit["version"]),
            str(commit["committed_at"])[:19],
            commit["action"] + (f" to {commit['to']}" if commit["to"] is not None else ""),
            commit["stream"],
            ", ".join(f"{count} {kind}" for kind, count in commit["counts"].items())
            + (f" (first valid from {start})" if (start := _scheduled_from(commit)) else ""),
            commit["who"],
            commit["why"],
            str(commit["metadata"].get("reliability", "-")),
        )
        for commit in commits
    )
    return make_table(heads, rows)


def _scheduled_from(commit: dict[str, Any]) -> str | None:
    """The earliest `valid_from` of the scheduled edits of a commit."""
    start = commit["metadata"].get("scheduled_from")
    return None if start is None else str(start)


def _diff_table(difference: "Diff", title: str) -> Table:
    replaced = dict(difference.replaced)
    rows = [
        (sign, entry.edit.id, shorten(entry.edit.prompt), shorten(entry.edit.target),
         replaced.get(entry.edit.id, "") if sign == "-" else "")
        for sign, entries in (("-", difference.removed), ("+", difference.added))
        for entry in entries
    ]  # fmt: skip
    none = [("", "the same edits are active in both", "", "", "")]
    return make_table(("", "edit", "prompt", "target", "replaced by"), rows or none, title=title)
