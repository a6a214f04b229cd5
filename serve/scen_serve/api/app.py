"""The HTTP application over a service."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.middleware.cors import CORSMiddleware

from scen import __version__
from scen_serve.api.access import ApiKey, AppContext, AppSettings, KeyRing
from scen_serve.api.errors import RETRY_S, ApiError, BodyLimit, HostCheck, install_handlers
from scen_serve.api.generate import generate_routes
from scen_serve.api.replies import IGNORED_HEADER, UNPLACED_HEADER
from scen_serve.api.responses import response_routes
from scen_serve.api.store import edit_routes, snapshot_routes
from scen_serve.api.workbench import add_workbench
from scen_serve.metrics import Metrics
from scen_serve.service import Service
from scen_serve.telemetry import RequestLog, RequestRecord, Traces, log_event

log = logging.getLogger(__name__)
_HEADERS = ("X-Request-Id", "X-Scen-Version", "X-Scen-Edit", UNPLACED_HEADER, IGNORED_HEADER)


def create_app(
    service: Service,
    settings: AppSettings,
    keys: Sequence[ApiKey] = (),
    traces: Traces | None = None,
) -> FastAPI:
    """An app that starts the service on startup and stops it on shutdown.

    Without keys every caller has all scopes: such an app must be reachable from this machine only,
    and rejects requests for other host names, unless the settings allow open access.
    """
    context = AppContext(service, KeyRing(keys), settings, Metrics(service, traces), traces)
    app = FastAPI(
        title="SCEN",
        version=__version__,
        lifespan=_lifespan(context),
        docs_url=None,
        redoc_url=None,
    )
    app.state.metrics = context.metrics
    install_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if not (keys or settings.allow_open):
        app.add_middleware(HostCheck)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=_HEADERS,
        )
    app.add_middleware(RequestLog, keep=_ignore if traces is None else traces.keep)
    app.include_router(generate_routes(context))
    app.include_router(response_routes(context))
    app.include_router(snapshot_routes(context))
    app.include_router(edit_routes(context))
    _add_health(app, service)
    _add_metrics(app, context)
    add_workbench(app, context)
    return app


def _lifespan(context: AppContext) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    service, traces = context.service, context.traces
    about = {
        "store": service.store.storage.uri,
        "model": context.settings.model_name,
        "pid": os.getpid(),
    }

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        if traces is not None:
            traces.writer.start()
        log_event(log, "start", about)
        yield
        log_event(log, "stopping", about)
        await asyncio.to_thread(service.stop)
        if traces is not None:
            await asyncio.to_thread(traces.writer.stop)
        log_event(log, "stop", about)

    return lifespan


def _ignore(record: RequestRecord) -> None:
    """Used if requests are not traced."""


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """200 while the engine makes progress."""
        if not service.is_healthy:
            raise ApiError(503, "the engine has stopped; restart this server")
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 once a snapshot is loaded; until then 503 with Retry-After, like other routes."""
        if not service.is_ready:
            raise ApiError(503, "no snapshot of the store is loaded yet", RETRY_S)
        return JSONResponse({"status": "ready"})


def _add_metrics(app: FastAPI, context: AppContext) -> None:
    @app.get("/metrics", dependencies=[Depends(context.guard("read"))])
    async def metrics() -> Response:
        """Counters and gauges of this process, for Prometheus."""
        return Response(context.metrics.text(), media_type="text/plain; version=0.0.4")
