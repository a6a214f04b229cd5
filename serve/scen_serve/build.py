"""From a server's arguments to its service and its app."""

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI

from scen.fs import Storage
from scen.snapshot.open import OpenStore, Say, open_store
from scen.tracking.trace_writer import TraceWriter
from scen.tracking.tracking_uri import default_tracking_uri
from scen_serve.access import ApiKey
from scen_serve.api import create_app
from scen_serve.context import AppSettings
from scen_serve.pace import News
from scen_serve.server_args import ServerArgs
from scen_serve.service import Service
from scen_serve.settings import EngineLimits
from scen_serve.traces import Traces


def build_service(args: ServerArgs, say: Say = lambda _: None, news: News | None = None) -> Service:
    """The service of a store, not started. `news` tells of new versions, before the ledger is
    looked at. Raises NotFoundError where there is no store, BaseError where the base is not the
    store's."""
    store = open_store(Storage(args.store), args.base, say)
    spare = 2 if store.method.kind.is_low_rank else 1  # whole matrices: only those in use
    limits = EngineLimits(
        max_rows=args.max_rows,
        max_waiting=args.max_waiting,
        max_context=args.max_context,
        expert_slots=spare * args.max_rows,
        prefix_bytes=args.prefix_bytes,
    )
    return Service(store, limits, args.poll_s, news)


def build_app(args: ServerArgs, service: Service, keys: Sequence[ApiKey]) -> FastAPI:
    """The app of a service, with the keys of `args.key_file`."""
    name = args.model_name or model_name(service.store)
    settings = AppSettings(name, timeout_s=args.timeout_s, allow_open=args.allow_open)
    return create_app(service, settings, keys, build_traces(args, service.store, name))


def build_traces(args: ServerArgs, store: OpenStore, name: str) -> Traces | None:
    """What traces requests, in the experiment `serving/NAME`; None where nothing is traced."""
    if args.trace_share == 0:
        return None
    folder = store.storage.local_path if store.storage.is_local else None
    uri = args.tracking_uri or default_tracking_uri(folder)
    return Traces(TraceWriter(uri, f"serving/{name}"), args.trace_share, args.trace_text)


def model_name(store: OpenStore) -> str:
    """The name of a store's base, without where it lies."""
    return Path(store.base.name).name
