"""/v1/edits and /v1/snapshots: submitting, inspecting and revoking edits, choosing the version.

A submitted edit waits in the inbox of its stream until `scen drain` makes a wave of it.
"""

import asyncio
import json
import time
from typing import Any

from fastapi import APIRouter, Body, Depends
from fastapi.responses import JSONResponse

from scen.data import Validator
from scen.data.inbox import Inbox
from scen.data.rows import RawRow, Rejection
from scen.errors import NotFoundError
from scen.ledger.actions import About, Revoke
from scen.ledger.ledger import Ledger
from scen.records import Edit, edit_to_dict
from scen_serve.api.access import ApiKey, AppContext
from scen_serve.api.errors import ApiError
from scen_serve.api.schema import CanaryBody
from scen_serve.engine.snapshots import ServedSnapshot
from scen_serve.service import Service

STREAM = "online"
_POLL_S = 0.1
_FINAL = {"served", "scheduled", "rejected"}
Json = dict[str, Any]


def edit_routes(context: AppContext) -> APIRouter:
    """The routes by which edits come and go."""
    router = APIRouter(prefix="/v1/edits")
    service, limit_s = context.service, context.settings.timeout_s
    editor = Depends(context.guard("edit"))

    @router.post("")
    async def add(
        body: Json = Body(),  # noqa: B008
        wait: bool = False,
        key: ApiKey = editor,
    ) -> JSONResponse:
        """With `wait`, answers when the edit is served, scheduled or rejected, or after a time."""
        stream = _stream(body.pop("stream", STREAM), key)
        edit = read_edit({"author": key.name} | body)
        stream = await asyncio.to_thread(hand_in, service, stream, edit)
        until = time.monotonic() + (limit_s if wait else 0)
        found = await asyncio.to_thread(status, service, stream, edit.id)
        while found["status"] not in _FINAL and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)
            found = await asyncio.to_thread(status, service, stream, edit.id)
        return JSONResponse(found, 200 if found["status"] in _FINAL else 202)

    @router.get("/{edit_id}")
    async def show(edit_id: str, stream: str = STREAM, key: ApiKey = editor) -> Json:
        return await asyncio.to_thread(status, service, _stream(stream, key), edit_id)

    @router.delete("/{edit_id}")
    async def take_back(
        edit_id: str, stream: str = STREAM, why: str = "", key: ApiKey = editor
    ) -> Json:
        about = About(why, key.name)
        return await asyncio.to_thread(revoke, service, _stream(stream, key), edit_id, about)

    return router


def _stream(name: Any, key: ApiKey) -> str:
    """The stream's name. Raises ApiError 400 or 403."""
    if not isinstance(name, str):
        raise ApiError(400, "stream: must be a name, such as news")
    if not key.may_touch(name):
        raise ApiError(403, f"the API key {key.name} has no part in the stream {name[:64]!r}")
    return name


def read_edit(body: Json) -> Edit:
    """The edit in a body. Raises ApiError 400 naming the field and the fix."""
    row = RawRow(1, body, json.dumps(body), fields=body)
    found = Validator().check(row)
    if isinstance(found, Rejection):
        error = ApiError(400, f"{found.field}: {found.reason}")
        error.param = found.field
        raise error
    return found


def hand_in(service: Service, stream: str, edit: Edit) -> str:
    """Put the edit into the inbox, unless it is committed; the same edit again is the same. The
    stream that has it. Raises ConfigError for a stream that is no name, and for an id that is
    taken by another edit ApiError 409 or ConflictError."""
    inbox = Inbox(service.store.storage, stream)
    entry = service.store.ledger.snapshot().state.entries.get(edit.id)
    if entry is None:
        inbox.put(edit)
        return stream
    if entry.digest != edit.digest:
        raise ApiError(409, f"id: {edit.id} is another edit of the store; choose another id")
    return entry.stream


def status(service: Service, stream: str, edit_id: str) -> Json:
    """What became of an edit: queued, rejected (with field and reason), scheduled (not valid yet),
    committed, or served (then with the words that spans of messages are compared with); since when
    and until when it is valid; and what was remarked of it when its wave was run, such as another
    edit that its prompt also reaches. Raises NotFoundError; for one that was taken back, with how
    it left."""
    found = {"id": edit_id, "stream": stream}
    inbox = Inbox(service.store.storage, stream)
    state = service.store.ledger.snapshot().state
    try:
        is_scheduled = edit_id in state.gone and state.gone[edit_id].is_scheduled
        entry = state.entries[edit_id] if is_scheduled else service.store.ledger.find(edit_id)
        if entry.stream != stream:
            raise NotFoundError(f"edit {edit_id} is not in the stream {stream}")
    except NotFoundError as gone:
        try:
            told = inbox.status(edit_id)
        except NotFoundError:
            raise gone from None
        return found | told | _remarks(inbox, edit_id, told["status"])
    served = service.engine.snapshot
    is_served = served is not None and edit_id in served.edit_ids
    word = "scheduled" if is_scheduled else "served" if is_served else "committed"
    edit = edit_to_dict(entry.edit)
    facts = {"status": word, "version": entry.version, "edit": edit}
    facts |= {name: edit[name] for name in ("valid_from", "valid_until") if edit[name]}
    if served is not None and is_served:
        facts |= {"span": served.span(edit_id)}
    return found | facts | _remarks(inbox, edit_id, word)


def _remarks(inbox: Inbox, edit_id: str, status: str) -> Json:
    return {} if status == "queued" else {"remarks": inbox.remarks(edit_id)}


def revoke(service: Service, stream: str, edit_id: str, about: About) -> Json:
    """Withdraw an edit that waits, or revoke one that is committed. Raises NotFoundError, and
    ConflictError where its wave is just being committed."""
    found = status(service, stream, edit_id)
    if found["status"] in ("queued", "rejected"):
        Inbox(service.store.storage, stream).withdraw(edit_id)
        return {"id": edit_id, "stream": stream, "status": "withdrawn"}
    version = service.store.ledger.settle(Revoke([edit_id], about)).version
    return {"id": edit_id, "stream": stream, "status": "revoked", "version": version}


_RECENT = 5


def snapshot_routes(context: AppContext) -> APIRouter:
    """The routes by which versions are seen and chosen."""
    router = APIRouter(prefix="/v1/snapshots")
    service = context.service
    follower = service.follower
    reader, admin = Depends(context.guard("read")), Depends(context.guard("admin"))

    @router.get("")
    async def snapshots(key: ApiKey = reader) -> dict[str, Any]:
        newest = await asyncio.to_thread(service.store.ledger.version)
        recent = await asyncio.to_thread(_recent, service.store.ledger, key)
        told = {"object": "list", "newest": newest, "data": list(range(newest + 1))}
        return told | {"recent": recent} | state()

    @router.post("/{version}:activate")
    async def activate(version: str, key: ApiKey = admin) -> dict[str, Any]:
        """A number stays until another is activated; `latest` follows the ledger again."""
        wanted = None if version == "latest" else _number(version)
        await asyncio.to_thread(follower.activate, wanted, key.name)
        return state()

    @router.post("/{version}:canary")
    async def canary(version: str, body: CanaryBody, key: ApiKey = admin) -> dict[str, Any]:
        """A share of the requests goes to this version, the others stay on the one of now, until a
        version is activated."""
        wanted = _number(version)
        await asyncio.to_thread(follower.try_candidate, wanted, body.share, key.name)
        return state()

    def state() -> dict[str, Any]:
        served: ServedSnapshot | None = service.engine.snapshot
        return {
            "served": None if served is None else served.version,
            "edits": None if served is None else len(served.places),
            "held": follower.held,
            "candidate": follower.policy.candidate,
            "share": follower.policy.share,
            "follows": follower.pace.follows,
            "error": follower.error,
        }

    return router


def _recent(ledger: Ledger, key: ApiKey) -> list[dict[str, Any]]:
    """The last commits that are the key's business, the newest first."""
    seen = [one for one in ledger.log() if all(map(key.may_touch, one.stream.split(", ")))]
    return [
        {
            "version": one.version,
            "action": one.action,
            "stream": one.stream,
            "edits": one.num_edits,
            "at": one.committed_at.isoformat(timespec="seconds"),
        }
        for one in seen[: -_RECENT - 1 : -1]
    ]


def _number(version: str) -> int:
    """The version in a path. Raises NotFoundError."""
    if not (version.isascii() and version.isdigit()):
        raise NotFoundError(f"snapshot: {version[:40]!r} is neither a version nor latest")
    if len(version) > 18:
        raise NotFoundError("snapshot: there are not so many versions")
    return int(version)
