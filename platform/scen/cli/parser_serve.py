"""The words of `scen serve`."""

import argparse

from scen.cli.options import RAW, base_options, count, store_option

_EPILOG = """\
The API is OpenAI's: point any of its clients at http://127.0.0.1:8000/v1. A page to try it out is
at /, metrics at /metrics. New versions of the store are served as they are committed.

FILE of keys (YAML), without which only this machine may ask:
  keys:
  - {name: app, key: sk-..., scopes: [read], requests_per_minute: 600}
  - {name: editors, sha256: (of the key, in hex), scopes: [read, edit], streams: [news]}
  - {name: ops, key: sk-..., scopes: [admin]}

examples:
  scen serve --store ./my-store
  scen serve --store ./my-store --replicas 1:4
  scen serve --store s3://bucket/store --host 0.0.0.0 --api-keys keys.yaml
"""


def add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`scen serve`."""
    text = "answer over HTTP with the edited model, by OpenAI's API"
    serve = commands.add_parser(
        "serve", help=text, description=text, epilog=_EPILOG, formatter_class=RAW
    )
    store_option(serve)
    add = serve.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1")
    add("--port", type=count, default=8000, metavar="N", help="default: 8000")
    add("--api-keys", metavar="FILE", help="who may ask, edit and administer")
    add("--model-name", metavar="NAME", help="what clients call the model (default: the base's)")
    add("--max-rows", type=count, default=32, metavar="N",
        help="answers that are given at a time (default: 32)")  # fmt: skip
    add("--max-context", type=count, default=4096, metavar="N",
        help="tokens of a prompt and its answer (default: 4096, or what the base can)")  # fmt: skip
    add("--replicas", type=replica_range, metavar="MIN:MAX",
        help="as many processes as the load needs, by Ray Serve, at most one a core "
        "(default: this process alone)")  # fmt: skip
    base_options(serve)


def replica_range(text: str) -> tuple[int, int]:
    """MIN:MAX, or one number for both."""
    least, _, most = text.partition(":")
    found = count(least), count(most or least)
    if found[0] > found[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: the first number is the larger one")
    return found
