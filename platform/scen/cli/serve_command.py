"""`scen serve`: the edited model over HTTP, in this process or by replicas on a Ray of its own."""

import argparse
import importlib
import sys

from scen.cli.output import say, show_warnings
from scen.cli.settings import read_config
from scen.errors import ConfigError


def run(args: argparse.Namespace) -> None:
    """Serve until stopped."""
    try:
        # By name: the server stands above this package, and its libraries are an extra.
        server = importlib.import_module("scen_serve.main")
        server_settings = importlib.import_module("scen_serve.settings")
    except ImportError as err:
        raise ConfigError(
            f"serve: {err.name} is not installed; pip install 'scen-platform[serve]'"
        ) from err
    show_warnings()
    found = server_settings.ServerArgs(
        store=args.store,
        base=read_config(args).base,
        key_file=args.api_keys,
        model_name=args.model_name,
        max_rows=args.max_rows,
        max_context=args.max_context,
        prefix_bytes=args.prefix_bytes,
        log_format=args.log_format or ("text" if sys.stderr.isatty() else "json"),
        log_level=args.log_level,
        trace_share=args.trace_share,
        tracking_uri=args.tracking_uri,
        trace_text=args.trace_text,
    )
    address = server.Address(args.host, args.port)
    if args.replicas is None:
        server.serve(found, address, say)
    else:
        server.serve_replicas(found, args.replicas, address, say)
