"""Serving a store in this process, until a signal ends it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from scen.snapshot.open import OpenStore
from scen_serve.access import ApiKey, check_address, read_keys
from scen_serve.api import create_app
from scen_serve.context import AppSettings
from scen_serve.service import Service
from scen_serve.settings import EngineLimits

_GRACE_S = 30


@dataclass(frozen=True)
class ServeOptions:
    """Where to listen, whom to answer, and how much at a time."""

    host: str = "127.0.0.1"
    port: int = 8000
    key_file: str | None = None
    model_name: str | None = None
    max_rows: int = 32
    max_context: int = 4096

    def keys(self) -> list[ApiKey]:
        """The keys of the file; none where there is no file. Raises ConfigError."""
        return [] if self.key_file is None else read_keys(self.key_file)

    def check(self) -> None:
        """Raises ConfigError for a wrong file of keys, or an address that needs one."""
        check_address(self.host, self.keys())


def serve(store: OpenStore, options: ServeOptions, say: Callable[[str], None]) -> None:
    """Answer until SIGINT or SIGTERM; running answers may end, for half a minute."""
    options.check()
    is_paper = store.method.method == "scen"  # whole matrices: no more than can be in use
    limits = EngineLimits(
        max_rows=options.max_rows,
        max_context=options.max_context,
        expert_slots=options.max_rows if is_paper else 2 * options.max_rows,
    )
    settings = AppSettings(options.model_name or model_name(store))
    app = create_app(Service(store, limits), settings, options.keys())
    where = f"[{options.host}]" if ":" in options.host else options.host
    say(f"serving {settings.model_name} at http://{where}:{options.port}")
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )


def model_name(store: OpenStore) -> str:
    """The name of a store's base, without where it lies."""
    return Path(store.base.name).name
