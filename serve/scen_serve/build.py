"""From a server's arguments to its service and its app."""

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI

from scen.fs import Storage
from scen.snapshot.open import OpenStore, Say, open_store
from scen_serve.access import ApiKey
from scen_serve.api import create_app
from scen_serve.context import AppSettings
from scen_serve.server_args import ServerArgs
from scen_serve.service import Service
from scen_serve.settings import EngineLimits


def build_service(args: ServerArgs, say: Say = lambda _: None) -> Service:
    """The service of a store, not started. Raises NotFoundError where there is no store, BaseError
    where the base is not the store's."""
    store = open_store(Storage(args.store), args.base, say)
    is_paper = store.method.method == "scen"  # whole matrices: no more than can be in use
    limits = EngineLimits(
        max_rows=args.max_rows,
        max_waiting=args.max_waiting,
        max_context=args.max_context,
        expert_slots=args.max_rows if is_paper else 2 * args.max_rows,
    )
    return Service(store, limits, args.poll_s)


def build_app(args: ServerArgs, service: Service, keys: Sequence[ApiKey]) -> FastAPI:
    """The app of a service, with the keys of `args.key_file`."""
    name = args.model_name or model_name(service.store)
    return create_app(service, AppSettings(name, timeout_s=args.timeout_s), keys)


def model_name(store: OpenStore) -> str:
    """The name of a store's base, without where it lies."""
    return Path(store.base.name).name
