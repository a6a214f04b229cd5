"""/v1/edits: handing in an edit, and asking what became of it.

An edit that is handed in is a JSON line in a file of its own under `inbox/<stream>/`, for the next
wave of that stream.
"""

import asyncio
import json
import re
from typing import Any

from fastapi import APIRouter, Body, Depends
from fastapi.responses import JSONResponse

from scen.errors import ConfigError, NotFoundError
from scen.fs import Storage
from scen.ingest import Validator
from scen.ingest.rows import RawRow, Rejection
from scen.records import Edit, digest_bytes, edit_to_dict
from scen.registry.ledger import Ledger
from scen_serve.access import ApiKey
from scen_serve.context import AppContext
from scen_serve.problems import ApiError

STREAM = "online"
_STREAM = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
Json = dict[str, Any]


def edit_routes(context: AppContext) -> APIRouter:
    """The routes by which edits come and go."""
    router = APIRouter(prefix="/v1/edits")
    store = context.service.store
    editor = Depends(context.guard("edit"))

    @router.post("")
    async def add(body: Json = Body(), key: ApiKey = editor) -> JSONResponse:  # noqa: B008
        stream = body.pop("stream", STREAM)
        edit = read_edit({"author": key.name} | body)
        await asyncio.to_thread(enqueue, store.storage, store.ledger, stream, edit)
        return JSONResponse({"id": edit.id, "stream": stream, "status": "queued"}, 202)

    @router.get("/{edit_id}", dependencies=[editor])
    async def show(edit_id: str, stream: str = STREAM) -> Json:
        return await asyncio.to_thread(status, store.storage, store.ledger, stream, edit_id)

    @router.delete("/{edit_id}", dependencies=[editor])
    async def revoke(edit_id: str) -> Json:
        await asyncio.to_thread(store.ledger.find, edit_id)
        raise ApiError(501, "edits cannot be taken back yet; serve an older version instead")

    return router


def read_edit(body: Json) -> Edit:
    """The edit in a body. Raises ApiError 400 naming the field and the fix."""
    row = RawRow(1, body, json.dumps(body), fields=body)
    found = Validator().check(row)
    if isinstance(found, Rejection):
        error = ApiError(400, f"{found.field}: {found.reason}")
        error.param = found.field
        raise error
    return found


def enqueue(storage: Storage, ledger: Ledger, stream: str, edit: Edit) -> None:
    """Write the edit to the inbox; the same edit again is the same. Raises ConfigError for a
    stream that is no name, ApiError 409 where the id is taken by another edit."""
    path, line = inbox_path(stream, edit.id), json.dumps(edit_to_dict(edit), ensure_ascii=False)
    taken = [entry for entry in ledger.snapshot().entries if entry.edit_id == edit.id]
    if taken and taken[0].edit.digest != edit.digest:
        raise ApiError(409, f"id: {edit.id} is another edit of the store; choose another id")
    if not taken and not storage.put_new(path, f"{line}\n".encode()):
        queued = json.loads(storage.read(path))
        if queued != json.loads(line):
            raise ApiError(409, f"id: {edit.id} is another edit that waits; choose another id")


def status(storage: Storage, ledger: Ledger, stream: str, edit_id: str) -> Json:
    """What became of an edit: served since a version, or queued. Raises NotFoundError, with how it
    left where it was revoked."""
    try:
        entry = ledger.find(edit_id)
    except NotFoundError:
        if not storage.exists(inbox_path(stream, edit_id)):
            raise
        return {"id": edit_id, "stream": stream, "status": "queued"}
    return {
        "id": edit_id,
        "stream": entry.stream,
        "status": "committed",
        "version": entry.version,
        "edit": edit_to_dict(entry.edit),
    }


def inbox_path(stream: str, edit_id: str) -> str:
    """Where an edit waits. Raises ConfigError for a stream that is no name."""
    if not isinstance(stream, str) or not _STREAM.fullmatch(stream):
        raise ConfigError(f"stream: must match {_STREAM.pattern}")
    name = digest_bytes(edit_id.encode("utf-8", "replace"))[:32]
    return f"inbox/{stream}/{name}.jsonl"
