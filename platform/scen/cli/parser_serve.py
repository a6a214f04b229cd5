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
Rates are counted by each process: with N replicas a key may ask up to N times as often.

The log (stderr) has a line for each request: time, request id (header X-Request-Id), the name of
the key, path, status, seconds, route (edit, base or off), edit, score, version, tokens and seconds
to the first token; and one for each start, stop and swap of versions. Never a prompt or an answer.
Health checks and /metrics are told from level debug on.

examples:
  scen serve --store ./my-store
  scen serve --store ./my-store --replicas 1:4
  scen serve --store s3://bucket/store --host 0.0.0.0 --api-keys keys.yaml
  scen serve --store ./my-store --log-format json --trace-share 0.01
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
    add("--prefix-mib", type=mebibytes, default=256 << 20, metavar="N", dest="prefix_bytes",
        help="memory of the device for keys and values of prompts that begin alike, such as with "
        "one system prompt; 0 turns it off (default: 256)")  # fmt: skip
    add("--replicas", type=replica_range, metavar="MIN:MAX",
        help="as many processes as the load needs, by Ray Serve, at most one a core "
        "(default: this process alone)")  # fmt: skip
    _watch_options(serve)
    base_options(serve)


def _watch_options(serve: argparse.ArgumentParser) -> None:
    """What is told of the requests."""
    group = serve.add_argument_group("log and traces")
    add = group.add_argument
    add("--log-format", choices=("json", "text"),
        help="default: text on a terminal, else json")  # fmt: skip
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info",
        help="default: info")  # fmt: skip
    add("--trace-share", type=trace_share, default=0.0, metavar="SHARE",
        help="of the requests that become traces in MLflow, 0 to 1 (default: 0)")  # fmt: skip
    add("--tracking-uri", metavar="URI",
        help="of MLflow, for traces (default: MLFLOW_TRACKING_URI, else a file in the "
        "store)")  # fmt: skip
    add("--trace-text", action="store_true", help="prompts and answers are in the traces too")


def mebibytes(text: str) -> int:
    """A whole number of MiB, as bytes."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of MiB")
    return int(text) << 20


def trace_share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 0 to 1, such as 0.01")
    return value


def replica_range(text: str) -> tuple[int, int]:
    """MIN:MAX, or one number for both."""
    least, _, most = text.partition(":")
    found = count(least), count(most or least)
    if found[0] > found[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: the first number is the larger one")
    return found
