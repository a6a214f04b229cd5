"""The workbench: the page at `/`, its static files, and what it asks first of a server.

The page is plain HTML with JavaScript modules from `static/`. Its content security policy allows
nothing from other hosts, no inline code, and no HTML made from strings (Trusted Types).
"""

import importlib.resources
from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope as AsgiScope

from scen_serve.api.access import ANYONE, EVERYTHING, ApiKey, AppContext, Scope
from scen_serve.api.explain import explain_routes
from scen_serve.api.store import STREAM
from scen_serve.api.store_views import store_views

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
    """The caller's key, and the facts of the server that a client needs to begin.

    `streams` None is every stream. `needs_key` is False where the server has no keys. `has_roles`
    is False where the base's template takes a single message of the user. An edit answers where its
    score is above `threshold`; `max_context` counts the tokens of a prompt and its answer.
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
    """Add the page, its files, and the routes that are there for it."""
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
    """Static files that browsers revalidate each time, so that page and modules never differ."""

    async def get_response(self, path: str, scope: AsgiScope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _whoami_route(context: AppContext) -> APIRouter:
    router = APIRouter()
    anybody = Depends(context.guard(None))

    @router.get("/v1/whoami")
    async def whoami(key: ApiKey = anybody) -> Whoami:
        """Which scopes and streams the key has; needs a valid key, but no scope."""
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
        "threshold": service.store.threshold,
        "max_context": service.engine.max_context,
        "default_tokens": settings.default_tokens,
    }
