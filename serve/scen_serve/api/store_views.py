"""Lists of edits and versions, the history of an edit, and rollback: administration of a store."""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from scen.data.inbox import Inbox
from scen.errors import ConflictError, NotFoundError
from scen.ledger.actions import About, Rollback
from scen.ledger.events import Event, LedgerEntry, Recalibrated, Superseded
from scen.ledger.state import State
from scen.ledger.view import LogEntry
from scen.records import edit_to_dict
from scen_serve.api.access import ApiKey, AppContext
from scen_serve.api.errors import ApiError
from scen_serve.api.store import STREAM
from scen_serve.service import Service

MAX_WAITING = 500
"""Most recent queued edits of a stream that are listed; each one is read from its own file."""

Show = Literal["all", "pending", "active", "gone"]
_SEARCHED = ("id", "prompt", "target", "subject")


class EditRow(BaseModel):
    """An edit in a list. `status`: queued (waits for a wave), training (its wave is running),
    committed (in the ledger), served (this server answers with it); or, once inactive: superseded
    (by the edit `by`), revoked, expired. It was committed in `version` and deactivated in `left`.
    """

    id: str
    stream: str
    status: str
    at: datetime
    version: int | None = None
    left: int | None = None
    by: str | None = None
    edit: dict[str, Any]


class EditList(BaseModel):
    """A page of edits, newest first: pending ones, then those of the ledger. `total` counts all
    matches; `next` is the `offset` of the next page, None on the last."""

    object: Literal["list"] = "list"
    data: list[EditRow]
    total: int
    next: int | None


class EditEvent(BaseModel):
    """What happened to an edit in a version: committed, superseded, revoked, expired, restored, or
    dropped (its expert was deleted)."""

    kind: str
    version: int
    at: datetime
    who: str
    why: str
    by: str | None = None


class EditHistory(BaseModel):
    """The events of an edit in the ledger, oldest first, and its wave's remarks. `span` is the text
    with which messages are compared, if the edit is served."""

    id: str
    stream: str
    span: str | None
    remarks: list[str]
    events: list[EditEvent]


class VersionRow(BaseModel):
    """A commit of the ledger. `edits` is the number of edits affected, `counts` the number of each
    event; `to` is the target version of a rollback. `who` and `why` require the scope edit."""

    version: int
    action: str
    stream: str
    edits: int
    counts: dict[str, int]
    at: datetime
    to: int | None
    who: str | None
    why: str | None


class VersionList(BaseModel):
    """Commits, newest first. `next` is the `before` of the next page, None on the last."""

    object: Literal["list"] = "list"
    data: list[VersionRow]
    next: int | None


class RollbackBody(BaseModel):
    """A rollback request. `newest` is the newest version known to the caller: the rollback is
    refused if the ledger has advanced since. Revoked or expired edits are restored only with
    `bring_back`."""

    model_config = ConfigDict(extra="forbid")

    why: str = Field(default="", max_length=2000)
    newest: int | None = Field(default=None, ge=0, lt=1 << 63)
    bring_back: bool = False
    dry_run: bool = False


class RollbackResult(BaseModel):
    """The effect of a rollback, or with `dry_run` of a planned one, as edit ids. `unwanted` are
    those of `restored` that were revoked or had expired. `version` is the ledger's newest."""

    to: int
    version: int
    dry_run: bool
    revoked: list[str]
    restored: list[str]
    unwanted: list[str]


def store_views(context: AppContext) -> APIRouter:
    """The routes of this module."""
    router = APIRouter(prefix="/v1")
    service = context.service
    reader, editor, admin = (Depends(context.guard(s)) for s in ("read", "edit", "admin"))

    @router.get("/edits")
    async def edits(
        key: Annotated[ApiKey, editor],
        q: Annotated[str, Query(max_length=200)] = "",
        show: Show = "all",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> EditList:
        """The edits of the key's streams that contain each word of `q` in their id, prompt, target
        or subject."""
        return await asyncio.to_thread(_list_edits, service, key, (q, show), (offset, limit))

    @router.get("/edits/{edit_id}/history")
    async def history(edit_id: str, key: Annotated[ApiKey, editor]) -> EditHistory:
        """Includes inactive edits; 404 for an edit that was never in the ledger."""
        return await asyncio.to_thread(_history, service, key, edit_id)

    @router.get("/snapshots/log")
    async def log(
        key: Annotated[ApiKey, reader],
        before: Annotated[int | None, Query(ge=0)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 20,
    ) -> VersionList:
        """The commits before version `before` that affect only the key's streams."""
        return await asyncio.to_thread(_list_versions, service, key, before, limit)

    @router.post("/snapshots/{version}:rollback")
    async def rollback(
        version: int, body: RollbackBody, key: Annotated[ApiKey, admin]
    ) -> RollbackResult:
        """Restores the active edits of an earlier version, in a new version. 409 if the ledger has
        advanced, revoked edits would be restored, or an expert has been deleted since."""
        return await asyncio.to_thread(_roll_back, service, key, version, body)

    return router


def _list_edits(
    service: Service, key: ApiKey, filters: tuple[str, Show], page: tuple[int, int]
) -> EditList:
    (q, show), (offset, limit) = filters, page
    state = service.store.ledger.snapshot().state
    matches: list[EditRow | LedgerEntry] = []
    if show in ("all", "pending"):
        matches += _pending(service, state, key)
    if show != "pending":
        matches += [
            entry
            for entry in reversed(list(state.entries.values()))
            if key.may_touch(entry.stream)
            and (show == "all" or (entry.edit_id in state.gone) == (show == "gone"))
        ]
    words = q.casefold().split()
    if words:  # otherwise only the texts of this page need to be read
        matches = [item for item in matches if _matches(item, words)]
    rows = [
        item if isinstance(item, EditRow) else _ledger_row(service, state, item)
        for item in matches[offset : offset + limit]
    ]
    end = offset + len(rows)
    return EditList(data=rows, total=len(matches), next=end if end < len(matches) else None)


def _matches(item: EditRow | LedgerEntry, words: Sequence[str]) -> bool:
    edit = item.edit if isinstance(item, EditRow) else edit_to_dict(item.edit)
    text = " ".join(str(edit[name] or "") for name in _SEARCHED).casefold()
    return all(word in text for word in words)


def _pending(service: Service, state: State, key: ApiKey) -> list[EditRow]:
    """The pending edits, newest first: of streams with edits in the ledger, the default stream, and
    the key's own streams."""
    streams = {STREAM, *(key.streams or ()), *(entry.stream for entry in state.entries.values())}
    rows = [
        row
        for stream in filter(key.may_touch, streams)
        for row in _waiting(Inbox(service.store.storage, stream), stream, service)
        if row.id not in state.entries  # just committed
    ]
    return sorted(rows, key=lambda row: row.at, reverse=True)


def _waiting(inbox: Inbox, stream: str, service: Service) -> Iterator[EditRow]:
    waiting = inbox.waiting()[-MAX_WAITING:]
    last = inbox.last_cut() if waiting else -1
    training = {row["id"] for row in inbox.rows(last)} if last >= 0 else set()
    for queued in waiting:
        with contextlib.suppress(NotFoundError):  # no longer queued
            edit = json.loads(service.store.storage.read(queued.path))
            status = "training" if edit["id"] in training else "queued"
            yield EditRow(id=edit["id"], stream=stream, status=status, at=queued.since, edit=edit)


def _ledger_row(service: Service, state: State, entry: LedgerEntry) -> EditRow:
    gone = state.gone.get(entry.edit_id)
    served = service.engine.snapshot
    is_served = served is not None and entry.edit_id in served.edit_ids
    return EditRow(
        id=entry.edit_id,
        stream=entry.stream,
        status=gone.status if gone else "served" if is_served else "committed",
        at=entry.committed_at,
        version=entry.version,
        left=gone.version if gone else None,
        by=gone.by if gone else None,
        edit=edit_to_dict(entry.edit),
    )


def _history(service: Service, key: ApiKey, edit_id: str) -> EditHistory:
    """Raises NotFoundError, also for an edit of another stream, whose existence is not revealed."""
    ledger = service.store.ledger
    entry = ledger.snapshot().state.entries.get(edit_id)
    if entry is None or not key.may_touch(entry.stream):
        raise NotFoundError(f"edit: {edit_id!r} is not in the ledger, or not in your streams")
    served = service.engine.snapshot
    is_served = served is not None and edit_id in served.edit_ids
    return EditHistory(
        id=edit_id,
        stream=entry.stream,
        span=served.span(edit_id) if served is not None and is_served else None,
        remarks=Inbox(service.store.storage, entry.stream).remarks(edit_id),
        events=[_edit_event(event, commit) for event, commit in ledger.history(edit_id)],
    )


def _edit_event(event: Event, commit: LogEntry) -> EditEvent:
    return EditEvent(
        kind=event.kind,
        version=event.version,
        at=commit.committed_at,
        who=commit.who,
        why=commit.why,
        by=event.by if isinstance(event, Superseded) else None,
    )


def _list_versions(service: Service, key: ApiKey, before: int | None, limit: int) -> VersionList:
    commits = [
        commit
        for commit in reversed(service.store.ledger.log())
        if (before is None or commit.version < before) and all(map(key.may_touch, commit.streams))
    ]
    rows = [_version_row(commit, key) for commit in commits[:limit]]
    return VersionList(data=rows, next=rows[-1].version if len(commits) > limit else None)


def _version_row(commit: LogEntry, key: ApiKey) -> VersionRow:
    may_read = key.may("edit")
    return VersionRow(
        version=commit.version,
        action=commit.action,
        stream=commit.stream,
        edits=commit.num_edits,
        counts=dict(commit.counts),
        at=commit.committed_at,
        to=commit.to,
        who=commit.who if may_read else None,
        why=commit.why if may_read else None,
    )


def _roll_back(service: Service, key: ApiKey, to: int, body: RollbackBody) -> RollbackResult:
    """Plan, check and commit against one version of the ledger, so that what was checked is what
    is committed."""
    ledger = service.store.ledger
    newest = ledger.snapshot()
    if body.newest not in (None, newest.version):
        raise ConflictError(
            f"newest: the ledger is at version {newest.version} now, not {body.newest}; check "
            "the commits since, and try again"
        )
    action = Rollback(to, About(body.why.strip(), key.name))
    events = ledger.plan(action)
    _check_streams(newest.state, key, events)
    revoked = [event.edit_id for event in events if event.kind == "revoked"]
    restored = [event.edit_id for event in events if event.kind == "restored"]
    gone = newest.state.gone
    unwanted = [edit_id for edit_id in restored if gone[edit_id].status != "superseded"]
    version = newest.version
    if not body.dry_run:
        if unwanted and not body.bring_back:
            raise ConflictError(
                f"bring_back: version {to} would bring back edits that were revoked or have "
                f"expired since: {', '.join(unwanted[:5])}{' ...' if unwanted[5:] else ''}"
            )
        version = ledger.act(action, newest.version).version
    return RollbackResult(
        to=to,
        version=version,
        dry_run=body.dry_run,
        revoked=revoked,
        restored=restored,
        unwanted=unwanted,
    )


def _check_streams(state: State, key: ApiKey, events: Sequence[Event]) -> None:
    """Raises ApiError 403 if an edit outside the key's streams would change, or the router, which
    all streams share."""
    changes = [event for event in events if not isinstance(event, Recalibrated)]
    if len(changes) < len(events) and key.streams is not None:
        raise ApiError(403, f"the API key {key.name} has no access to all streams, and the router "
                       "of the store would change")  # fmt: skip
    streams = {state.entries[event.edit_id].stream for event in changes}
    others = sorted(stream for stream in streams if not key.may_touch(stream))
    if others:
        raise ApiError(403, f"the API key {key.name} has no access to the stream {others[0]!r}")
