"""The HTTP application over a service."""

import asyncio
import importlib.resources
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from scen import __version__
from scen_serve.api.access import ApiKey, AppContext, AppSettings, KeyRing
from scen_serve.api.errors import BodyLimit, install_handlers
from scen_serve.api.generate import ask_routes
from scen_serve.api.store import edit_routes, snapshot_routes
from scen_serve.metrics import Metrics
from scen_serve.service import Service
from scen_serve.telemetry import RequestLog, RequestRecord, Traces, log_event

log = logging.getLogger(__name__)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
_POLICY += "connect-src 'self'; frame-ancestors 'none'"


def create_app(
    service: Service,
    settings: AppSettings,
    keys: Sequence[ApiKey] = (),
    traces: Traces | None = None,
) -> FastAPI:
    """An app that starts the service with itself and stops it at its end.

    Without keys everyone may do everything: such an app must be reachable from this machine only,
    and answers no request that was meant for another host name, unless the settings allow it.
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
    if not (keys or settings.allow_open):  # other sites' pages may know it by a name of their own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])
    app.add_middleware(RequestLog, keep=_ignore if traces is None else traces.keep)
    app.include_router(ask_routes(context))
    app.include_router(snapshot_routes(context))
    app.include_router(edit_routes(context))
    _add_health(app, service)
    _add_pages(app, context)
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
    """Where nobody traces requests."""


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """200 while the engine goes on."""
        is_healthy = service.is_healthy
        body = {"status": "ok" if is_healthy else "failed"}
        return JSONResponse(body, 200 if is_healthy else 503)

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 once a snapshot is loaded."""
        is_ready = service.is_ready
        body = {"status": "ready" if is_ready else "no snapshot is loaded"}
        return JSONResponse(body, 200 if is_ready else 503)


def _add_pages(app: FastAPI, context: AppContext) -> None:
    page = importlib.resources.files("scen_serve").joinpath("static/index.html").read_text()

    @app.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    @app.get("/metrics", dependencies=[Depends(context.guard("read"))])
    async def metrics() -> Response:
        """Counters and gauges of this process, for Prometheus."""
        return Response(context.metrics.text(), media_type="text/plain; version=0.0.4")
