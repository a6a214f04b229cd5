"""The workbench: its page at `/`, and the routes /v1/whoami and /v1/explain."""

import asyncio
import importlib.resources
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope as AsgiScope

from scen.errors import InputError
from scen.ledger.events import LedgerEntry
from scen.records import EncodedPrompt
from scen.snapshot.ask import LikelyEdit
from scen_serve.api.access import ANYONE, EVERYTHING, ApiKey, AppContext, Scope
from scen_serve.api.generate import encode_messages
from scen_serve.api.schema import Message, require_question
from scen_serve.api.store import STREAM
from scen_serve.api.store_views import store_views
from scen_serve.engine.request import BusyError
from scen_serve.engine.snapshots import ServedSnapshot
from scen_serve.service import Service


class ExplainBody(BaseModel):
    """A conversation that ends with the user, and the number of edits to return. `version` None is
    the served one."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Message] = Field(min_length=1, max_length=256)
    version: int | None = Field(default=None, ge=0, lt=1 << 63)
    count: int = Field(default=5, ge=1, le=16)

    @field_validator("messages")
    @classmethod
    def _ends_with_the_user(cls, value: list[Message]) -> list[Message]:
        return require_question(value)


class NearEdit(BaseModel):
    """An edit considered by the router. `answers` is True for the edit that answers. `span` is the
    part of the last message closest to it; `similarities` are cosines by view of its key.

    `edit_id` is None for an edit of an inaccessible stream that does not answer; `prompt`,
    `target`, `stream` and `version` are set only for keys that may see the edit.
    """

    edit_id: str | None
    score: float
    answers: bool
    span: str
    similarities: dict[str, float]
    stream: str | None = None
    version: int | None = None
    prompt: str | None = None
    target: str | None = None


class Explanation(BaseModel):
    """The `nearest` edits, best first. The first answers if its score is above `threshold`;
    otherwise `edit_id` is None and the base answers. `spans` are the parts of the last message that
    are compared with edits, the whole message first."""

    object: Literal["explanation"] = "explanation"
    version: int
    threshold: float
    edit_id: str | None
    spans: list[str]
    nearest: list[NearEdit]


def explain_routes(context: AppContext) -> APIRouter:
    """POST /v1/explain."""
    router = APIRouter()
    reader = Depends(context.guard("read"))
    service, timeout_s = context.service, context.settings.timeout_s

    @router.post("/v1/explain")
    async def explain(body: ExplainBody, key: ApiKey = reader) -> Explanation:
        """Returns 404 for a missing version, 503 if too many explanations are queued."""
        snapshot = service.engine.snapshot
        if body.version is not None:
            snapshot = await asyncio.to_thread(service.follower.find, body.version)
        if snapshot is None:
            raise BusyError("no snapshot of the store is loaded yet; try again in a moment")
        prompt = (await encode_messages(service.store.base.template, body.messages)).encoded
        _check_length(service, prompt)
        pending = service.engine.explain(snapshot, prompt, body.count)
        try:
            nearest = await asyncio.wait_for(asyncio.wrap_future(pending), timeout_s)
        except TimeoutError as err:
            raise BusyError(f"no explanation within {timeout_s:g} s; try again") from err
        return await asyncio.to_thread(_explanation, service, snapshot, prompt, nearest, key)

    return router


def _check_length(service: Service, prompt: EncodedPrompt) -> None:
    """Raises InputError unless the prompt fits into the context."""
    if not 0 < len(prompt.ids) <= service.engine.max_context:
        raise InputError(
            f"messages: {len(prompt.ids)} tokens do not fit into the context of 1 to "
            f"{service.engine.max_context}; shorten the conversation"
        )


def _explanation(
    service: Service,
    snapshot: ServedSnapshot,
    prompt: EncodedPrompt,
    nearest: Sequence[LikelyEdit],
    key: ApiKey,
) -> Explanation:
    ledger = service.store.ledger
    ledger_snapshot = ledger.snapshot(snapshot.version)
    threshold = service.store.threshold_at(ledger_snapshot)
    answering = nearest[0].edit_id if nearest and nearest[0].score > threshold else None
    routed = prompt.routed or prompt
    entries = ledger_snapshot.state.entries
    return Explanation(
        version=snapshot.version,
        threshold=threshold,
        edit_id=answering,
        spans=list(routed.texts),
        nearest=[
            _near_edit(entries[edit.edit_id], edit, edit.edit_id == answering, key)
            for edit in nearest
        ],
    )


def _near_edit(entry: LedgerEntry, likely: LikelyEdit, answers: bool, key: ApiKey) -> NearEdit:
    may_touch = key.may_touch(entry.stream)
    near = NearEdit(
        edit_id=likely.edit_id if answers or may_touch else None,
        score=likely.score,
        answers=answers,
        span=likely.span,
        similarities=dict(likely.similarities),
    )
    if not (may_touch and key.may("edit")):
        return near
    edit = entry.edit
    facts = {"stream": entry.stream, "version": entry.version}
    return near.model_copy(update=facts | {"prompt": edit.prompt, "target": edit.target})


_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
_PAGE_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Whoami(BaseModel):
    """The caller's key, and the server settings that a client needs.

    `streams` None means all streams. `needs_key` is False if the server has no keys. `has_roles` is
    False if the base's template accepts only a single user message. An edit answers if its score is
    above `threshold`; `max_context` is the maximum number of tokens of a prompt and its answer.
    """

    object: Literal["whoami"] = "whoami"
    name: str
    scopes: list[Scope]
    streams: list[str] | None
    needs_key: bool
    model: str
    method: str
    has_roles: bool
    threshold: float
    max_context: int
    default_tokens: int
    default_stream: str = STREAM


def add_workbench(app: FastAPI, context: AppContext) -> None:
    """Add the page, its static files, and the routes it uses."""
    folder = importlib.resources.files("scen_serve").joinpath("static")
    page = folder.joinpath("index.html").read_text()

    @app.get("/", include_in_schema=False)
    async def workbench() -> HTMLResponse:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    app.mount("/static", _Files(directory=str(folder)), name="static")
    app.include_router(_whoami_route(context))
    app.include_router(store_views(context))
    app.include_router(explain_routes(context))


class _Files(StaticFiles):
    """Static files that browsers always revalidate, so that page and modules stay consistent."""

    async def get_response(self, path: str, scope: AsgiScope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _whoami_route(context: AppContext) -> APIRouter:
    router = APIRouter()
    any_key = Depends(context.guard(None))

    @router.get("/v1/whoami")
    async def whoami(key: ApiKey = any_key) -> Whoami:
        """The key's scopes and streams; requires a valid key, but no scope."""
        return Whoami(**_key_facts(key), **_server_facts(context))

    return router


def _key_facts(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "scopes": [scope for scope in EVERYTHING if key.may(scope)],
        "streams": None if key.streams is None else list(key.streams),
        "needs_key": key is not ANYONE,
    }


def _server_facts(context: AppContext) -> dict[str, Any]:
    service, settings = context.service, context.settings
    return {
        "model": settings.model_name,
        "method": service.store.method.method,
        "has_roles": service.store.base.template.has_roles,
        "threshold": service.store.threshold_at(service.store.ledger.snapshot()),
        "max_context": service.engine.max_context,
        "default_tokens": settings.default_tokens,
    }
