"""`scen serve`: the edited model over HTTP, in this process."""

import argparse
import importlib

from scen.cli.output import say, show_warnings
from scen.cli.settings import read_config
from scen.errors import ConfigError
from scen.fs import Storage
from scen.snapshot.open import open_store


def run(args: argparse.Namespace) -> None:
    """Serve until stopped."""
    try:
        # By name: the server stands above this package, and its libraries are an extra.
        server = importlib.import_module("scen_serve.main")
    except ImportError as err:
        raise ConfigError(
            f"serve: {err.name} is not installed; pip install 'scen-platform[serve]'"
        ) from err
    show_warnings()
    options = server.ServeOptions(
        host=args.host,
        port=args.port,
        key_file=args.api_keys,
        model_name=args.model_name,
        max_rows=args.max_rows,
        max_context=args.max_context,
    )
    options.check()  # before a base is loaded for nothing
    store = open_store(Storage(args.store), read_config(args).base, say)
    server.serve(store, options, say)
