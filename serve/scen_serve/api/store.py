"""/v1/edits and /v1/snapshots: submit, inspect and revoke edits, and choose the served version.

A submitted edit waits in the inbox of its stream until `scen drain` makes a wave of it.
"""

import asyncio
import copy
import json
import time
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from scen.data import Validator
from scen.data.inbox import Inbox
from scen.data.read_json import parse_json_strict
from scen.data.rows import FieldError, RawRow, Rejection
from scen.data.validate import FindNames
from scen.errors import NotFoundError
from scen.ledger.actions import About, Revoke
from scen.ledger.ledger import Ledger
from scen.records import Edit, edit_to_dict
from scen_serve.api.access import ApiKey, AppContext
from scen_serve.api.errors import ApiError
from scen_serve.engine.snapshots import ServedSnapshot
from scen_serve.service import Service

_RECENT = 5
STREAM = "online"
_POLL_S = 0.1
_FINAL = {"served", "scheduled", "rejected"}
Json = dict[str, Any]


class CanaryBody(BaseModel):
    """The candidate's share of the requests that name no version."""

    model_config = ConfigDict(extra="forbid")

    share: float = Field(gt=0, lt=1)


def edit_routes(context: AppContext) -> APIRouter:
    """The routes for submitting, inspecting and revoking edits."""
    router = APIRouter(prefix="/v1/edits")
    service, limit_s = context.service, context.settings.timeout_s
    editor = Depends(context.guard("edit"))
    # A copy, as tokenizers are not thread-safe and the engine's thread uses the original.
    template = copy.deepcopy(service.store.base.template)

    @router.post("")
    async def add(request: Request, wait: bool = False, key: ApiKey = editor) -> JSONResponse:
        """With `wait`, responds once the edit is served, scheduled or rejected, or on timeout."""
        body = parse_strictly(await request.body())
        stream = _stream(body.pop("stream", STREAM), key)
        edit = read_edit({"author": key.name} | body, template.control_names)
        stream = await asyncio.to_thread(submit_edit, service, stream, edit)
        until = time.monotonic() + (limit_s if wait else 0)
        state = await asyncio.to_thread(status, service, stream, edit.id)
        while state["status"] not in _FINAL and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)
            state = await asyncio.to_thread(status, service, stream, edit.id)
        return JSONResponse(state, 200 if state["status"] in _FINAL else 202)

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
        raise ApiError(403, f"the API key {key.name} has no access to the stream {name[:64]!r}")
    return name


def parse_strictly(data: bytes) -> Json:
    """A JSON object without duplicate keys or non-finite numbers. Raises ApiError 400 naming the
    field."""
    try:
        body = parse_json_strict(data)
    except FieldError as err:
        if err.field == "row":
            raise ApiError(400, "body: is not valid JSON") from err
        reason = f"{err.field[:64]}: {err.reason}"
        raise ApiError(400, reason, param=err.field.partition(".")[0][:64]) from err
    if not isinstance(body, dict):
        raise ApiError(400, "body: must be a JSON object")
    return body


def read_edit(body: Json, control_names: FindNames) -> Edit:
    """The edit in a body, which may also hold the option `allow_null_text`. Raises ApiError 400
    naming the field and the fix."""
    allow_null_text = body.pop("allow_null_text", False)
    if not isinstance(allow_null_text, bool):
        raise ApiError(400, "allow_null_text: must be true or false", param="allow_null_text")
    row = RawRow(1, body, json.dumps(body), fields=body)
    validator = Validator(control_names=control_names, allow_null_text=allow_null_text)
    checked = validator.check(row)
    if isinstance(checked, Rejection):
        raise ApiError(400, f"{checked.field}: {checked.reason}", param=checked.field)
    return checked


def submit_edit(service: Service, stream: str, edit: Edit) -> str:
    """Put the edit into the inbox unless it is already committed, and return its stream;
    idempotent. Raises ConfigError for an invalid stream name, and ApiError 409 or ConflictError if
    the id belongs to another edit."""
    inbox = Inbox(service.store.storage, stream)
    entry = service.store.ledger.snapshot().state.entries.get(edit.id)
    if entry is None:
        inbox.put(edit)
        return stream
    if entry.digest != edit.digest:
        raise ApiError(
            409, f"id: {edit.id} is taken by another edit in the store; choose another id"
        )
    return entry.stream


def status(service: Service, stream: str, edit_id: str) -> Json:
    """The state of an edit: queued, rejected (with field and reason), scheduled (not valid yet),
    committed, or served (with the text with which spans of messages are compared); its validity
    period; and remarks made when its wave was run, such as another edit that its prompt also
    reaches. Raises NotFoundError, which for a revoked edit says how it was deactivated."""
    identity = {"id": edit_id, "stream": stream}
    inbox = Inbox(service.store.storage, stream)
    state = service.store.ledger.snapshot().state
    entry = state.entries.get(edit_id)
    is_scheduled = edit_id in state.gone and state.gone[edit_id].is_scheduled
    is_current = is_scheduled or state.is_active(edit_id)
    if entry is None or entry.stream != stream or not is_current:
        try:
            queued = inbox.status(edit_id)
        except NotFoundError:
            if not is_scheduled:
                service.store.ledger.find(edit_id)  # if not active, its error says why
            raise NotFoundError(f"edit {edit_id} is not in the stream {stream}") from None
        return identity | queued | _remarks(inbox, edit_id, queued["status"])
    served = service.engine.snapshot
    is_served = served is not None and edit_id in served.edit_ids
    state_name = "scheduled" if is_scheduled else "served" if is_served else "committed"
    edit = edit_to_dict(entry.edit)
    facts = {"status": state_name, "version": entry.version, "edit": edit}
    facts |= {name: edit[name] for name in ("valid_from", "valid_until") if edit[name]}
    if served is not None and is_served:
        facts |= {"span": served.span(edit_id)}
    return identity | facts | _remarks(inbox, edit_id, state_name)


def _remarks(inbox: Inbox, edit_id: str, status: str) -> Json:
    return {} if status == "queued" else {"remarks": inbox.remarks(edit_id)}


def revoke(service: Service, stream: str, edit_id: str, about: About) -> Json:
    """Withdraw a queued edit, or revoke a committed one. Raises NotFoundError, and ConflictError if
    its wave is being committed."""
    current = status(service, stream, edit_id)
    if current["status"] in ("queued", "rejected"):
        Inbox(service.store.storage, stream).withdraw(edit_id)
        return {"id": edit_id, "stream": stream, "status": "withdrawn"}
    version = service.store.ledger.settle(Revoke([edit_id], about)).version
    return {"id": edit_id, "stream": stream, "status": "revoked", "version": version}


def snapshot_routes(context: AppContext) -> APIRouter:
    """The routes for listing and choosing versions."""
    router = APIRouter(prefix="/v1/snapshots")
    service = context.service
    follower = service.follower
    reader, admin = Depends(context.guard("read")), Depends(context.guard("admin"))

    @router.get("")
    async def snapshots(key: ApiKey = reader) -> dict[str, Any]:
        newest = await asyncio.to_thread(service.store.ledger.version)
        recent = await asyncio.to_thread(_recent, service.store.ledger, key)
        profile = await asyncio.to_thread(_profile, service)
        versions = {"object": "list", "newest": newest, "data": list(range(newest + 1))}
        return versions | {"recent": recent, "profile": profile} | state()

    @router.post("/{version}:activate")
    async def activate(version: str, key: ApiKey = admin) -> dict[str, Any]:
        """Pins a version until another is activated; `latest` follows the ledger again."""
        target = None if version == "latest" else _number(version)
        await asyncio.to_thread(follower.activate, target, key.name)
        return state()

    @router.post("/{version}:canary")
    async def canary(version: str, body: CanaryBody, key: ApiKey = admin) -> dict[str, Any]:
        """Sends a share of the requests to this version and the others to the served one, until a
        version is activated."""
        target = _number(version)
        await asyncio.to_thread(follower.try_candidate, target, body.share, key.name)
        return state()

    def state() -> dict[str, Any]:
        served: ServedSnapshot | None = service.engine.snapshot
        return {
            "served": None if served is None else served.version,
            "edits": None if served is None else len(served.places),
            "held": follower.held,
            "candidate": follower.policy.candidate,
            "share": follower.policy.share,
            "follows": follower.schedule.follows,
            "error": follower.error,
        }

    return router


def _profile(service: Service) -> dict[str, Any]:
    """How the router of the served version was made."""
    ledger, served = service.store.ledger, service.engine.snapshot
    return dict(ledger.profile(ledger.snapshot(None if served is None else served.version)))


def _recent(ledger: Ledger, key: ApiKey) -> list[dict[str, Any]]:
    """The last commits in streams that the key may access, newest first."""
    commits = [
        commit for commit in ledger.log() if all(map(key.may_touch, commit.stream.split(", ")))
    ]
    return [
        {
            "version": commit.version,
            "action": commit.action,
            "stream": commit.stream,
            "edits": commit.num_edits,
            "at": commit.committed_at.isoformat(timespec="seconds"),
        }
        for commit in commits[: -_RECENT - 1 : -1]
    ]


def _number(version: str) -> int:
    """The version in a path. Raises NotFoundError."""
    if not (version.isascii() and version.isdigit()):
        raise NotFoundError(f"snapshot: {version[:40]!r} is neither a version nor latest")
    if len(version) > 18:
        raise NotFoundError("snapshot: the version is too large")
    return int(version)
