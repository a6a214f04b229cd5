"""Serve a store at one address: in this process, or with replicas on a Ray started for it."""

import logging
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from scen.cluster.session import ray_session
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.snapshot.open import OpenStore, Say, open_store
from scen.tracking.client import default_tracking_uri
from scen.tracking.traces import TraceWriter
from scen_serve.api.access import ApiKey, AppSettings, check_address, read_key_file
from scen_serve.api.app import create_app
from scen_serve.api.errors import PROXY_CALLBACK
from scen_serve.service import Announcements, Service
from scen_serve.settings import EngineLimits, ServerArgs
from scen_serve.telemetry import Traces, setup_logs

log = logging.getLogger(__name__)
_GRACE_S = 30


def build_service(
    args: ServerArgs, say: Say = lambda _: None, announcements: Announcements | None = None
) -> Service:
    """The service of a store, not started. `announcements` reports versions between two polls of
    the ledger. Raises NotFoundError if the store does not exist, BaseError if the base is not the
    store's, ConfigError if vLLM is selected and not installed."""
    vllm = args.vllm if args.engine == "vllm" else None
    base = args.base if vllm is None else args.base.model_copy(update={"device": "cpu"})
    store = open_store(Storage(args.store), base, say, weights=vllm is None)
    spare = 2 if store.method.kind.is_low_rank else 1  # whole matrices are large: no spare slots
    limits = EngineLimits(
        max_rows=args.max_rows,
        max_waiting=args.max_waiting,
        max_context=args.max_context,
        expert_slots=spare * args.max_rows if vllm is None else vllm.expert_slots,
        prefix_bytes=args.prefix_bytes,
    )
    if vllm is not None:
        say("starting vLLM (half a minute; minutes where it compiles the base)")
    return Service(store, limits, args.poll_s, announcements, vllm)


def build_app(args: ServerArgs, service: Service, keys: Sequence[ApiKey]) -> FastAPI:
    """The app of a service, with the keys of `args.key_file`."""
    name = args.model_name or model_name(service.store)
    settings = AppSettings(
        name,
        timeout_s=args.timeout_s,
        allow_open=args.allow_open,
        cors_origins=args.cors_origins,
    )
    return create_app(service, settings, keys, build_traces(args, service.store, name))


def build_traces(args: ServerArgs, store: OpenStore, name: str) -> Traces | None:
    """The tracer of requests, in the experiment `serving/NAME`; None if tracing is off."""
    if args.trace_share == 0:
        return None
    folder = store.storage.local_path if store.storage.is_local else None
    uri = args.tracking_uri or default_tracking_uri(folder)
    return Traces(TraceWriter(uri, f"serving/{name}"), args.trace_share, args.trace_text)


def model_name(store: OpenStore) -> str:
    """The name of a store's base, without its path."""
    return Path(store.base.name).name


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self}"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def serve(args: ServerArgs, address: Address, say: Say) -> None:
    """Serve until SIGINT or SIGTERM; running answers then have 30 s to finish. Raises ConfigError
    for an invalid key file, or an address that requires one."""
    keys = read_key_file(args.key_file)
    check_address(address.host, keys, args.allow_open)
    say = _begin_log(args, say)
    app = build_app(args, build_service(args, say), keys)
    say(f"serving {args.store} at {address.url}")
    uvicorn.run(
        app,
        host=address.host,
        port=address.port,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )


def serve_replicas(args: ServerArgs, replicas: tuple[int, int], address: Address, say: Say) -> None:
    """As `serve`, with as many replicas (minimum, maximum) as the load requires, on a Ray instance
    that is started for this and stopped at the end."""
    check_address(address.host, read_key_file(args.key_file), args.allow_open)
    open_ledger(Storage(args.store))  # raises before Ray is started, if there is no store
    say = _begin_log(args, say)
    # Ray listens on loopback only, and its proxies return errors in the API's form.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", PROXY_CALLBACK)
    say("starting Ray and the first replica (half a minute)")
    with ray_session("local", show_workers=True):
        from ray import serve as ray_serve

        from scen_serve.ray_app import AppArgs, build, show_replica_lines

        show_replica_lines(args.log_format)
        minimum, maximum = replicas
        app = AppArgs(**args.model_dump(), min_replicas=minimum, max_replicas=maximum)
        http = {"host": address.host, "port": address.port, "request_timeout_s": args.timeout_s}
        ray_serve.start(proxy_location="HeadOnly", http_options=http)
        ray_serve.run(build(app), name="edited")
        say(f"serving {args.store} at {address.url}")
        stop = threading.Event()
        # Only now, as Ray installs handlers of its own.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        stop.wait()
        say("stopping")
        ray_serve.shutdown()


def _begin_log(args: ServerArgs, say: Say) -> Say:
    """Set up logging; with JSON logs, messages for the user are logged as well."""
    setup_logs(args.log_format, args.log_level)
    return log.info if args.log_format == "json" else say
