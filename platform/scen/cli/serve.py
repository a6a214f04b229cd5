"""`serve` a store over HTTP, and `demo`, which starts a server at its end."""

import importlib
import importlib.util
import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.text import Text

from scen.cli.options import POSITIVE, BaseOptions, Store, between, parsed, read_config, room
from scen.cli.output import (
    escape,
    line,
    local_runtime,
    make_table,
    out,
    report_table,
    say,
    shorten,
    show_warnings,
)
from scen.errors import ConfigError, ScenError

if TYPE_CHECKING:
    from scen.pipeline.apply import EditReport

_START_S, _END_S, _ANSWER_TOKENS = 120, 40, 32
_NUM_EDITS, _NUM_OTHERS = 6, 3
app, _, command = room("Serving", 7)
_LOG = "Log and traces"


def read_replicas(text: str) -> tuple[int, int]:
    """MIN:MAX, or one number for both. Raises ValueError."""
    low, _, high = text.partition(":")
    high = high or low
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
        raise ValueError(f"{text!r} is not MIN:MAX, such as 1:4, with MIN of at least 1")
    return int(low), int(high)


@command
def serve(
    *,
    store: Store,
    host: Annotated[str, Parameter(metavar="ADDRESS", help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, POSITIVE, Parameter(metavar="N", help="port to listen on")] = 8000,
    api_keys: Annotated[
        str | None, Parameter(metavar="FILE", help="YAML file of API keys")
    ] = None,
    model_name: Annotated[
        str | None,
        Parameter(metavar="NAME", help="model name in the API (default: the base's name)"),
    ] = None,
    cors_origins: Annotated[
        tuple[str, ...],
        Parameter(name="--cors-origin", metavar="ORIGIN", help="pages of this origin may call the "
                  "API from a browser, such as https://app.example, or *; may be repeated"),
    ] = (),
    engine: Annotated[
        Literal["own", "vllm"],
        Parameter(help="own: embedded; vllm: faster, needs 'scen-platform[vllm]'"),
    ] = "own",
    vllm: Annotated[
        tuple[str, ...],
        Parameter(metavar="NAME=VALUE", help="option of vLLM, such as tensor_parallel_size=2, "
                  "quantization=fp8, or any of its engine arguments; may be repeated"),
    ] = (),
    max_rows: Annotated[
        int, POSITIVE, Parameter(metavar="N", help="maximum answers generated at a time")
    ] = 32,
    max_context: Annotated[
        int, POSITIVE,
        Parameter(metavar="N", help="maximum tokens of a prompt with its answer, within the limit "
                  "of the base"),
    ] = 4096,
    prefix_mib: Annotated[
        int, between(0, what="a whole number"),
        Parameter(metavar="N", help="device memory for keys and values of shared prompt prefixes, "
                  "such as a system prompt; 0 disables it"),
    ] = 256,
    replicas: Annotated[
        tuple[int, int] | None, parsed(read_replicas),
        Parameter(metavar="MIN:MAX", n_tokens=1, help="scale the number of processes with the "
                  "load, by Ray Serve, at most one per core (default: this process only)"),
    ] = None,
    log_format: Annotated[
        Literal["json", "text"] | None,
        Parameter(group=_LOG, help="default: text on a terminal, else json"),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Parameter(group=_LOG, help="minimum level that is logged"),
    ] = "info",
    trace_share: Annotated[
        float, between(0, 1),
        Parameter(group=_LOG, metavar="SHARE", help="share of requests traced in MLflow, 0 to 1 "
                  "(default: 0)"),
    ] = 0.0,
    tracking_uri: Annotated[
        str | None,
        Parameter(group=_LOG, metavar="URI", help="MLflow tracking URI for traces (default: "
                  "MLFLOW_TRACKING_URI, else a file in the store)"),
    ] = None,
    trace_text: Annotated[
        bool, Parameter(group=_LOG, help="include prompts and answers in traces")
    ] = False,
    base: BaseOptions | None = None,
) -> None:  # fmt: skip
    """serve the edited model over HTTP with an OpenAI-compatible API

    Point any OpenAI client at http://127.0.0.1:8000/v1. A page to try the model
    is at /, metrics are at /metrics. New versions of the store are served as
    they are committed.

    FILE of keys (YAML), without which only this machine has access:
      keys:
      - {name: app, key: sk-..., scopes: [read], requests_per_minute: 600}
      - {name: editors, sha256: (of the key, in hex), scopes: [read, edit],
         streams: [news]}
      - {name: ops, key: sk-..., scopes: [admin]}
    Rates are limited per process: with N replicas a key may ask up to N times as
    often.

    The log (stderr) has a line per request: time, request id (header
    X-Request-Id), key name, path, status, seconds, route (edit, base or off),
    edit, score, version, tokens and seconds to the first token; and one for each
    start, stop and version swap. Prompts and answers are never logged. Health
    checks and /metrics are logged at level debug.

    examples:
      scen serve --store ./my-store
      scen serve --store ./my-store --replicas 1:4
      scen serve --store ./my-store --engine vllm --vllm enforce_eager=true
      scen serve --store s3://bucket/store --host 0.0.0.0 --api-keys keys.yaml
      scen serve --store ./my-store --log-format json --trace-share 0.01
    """
    try:
        # Imported by name: the server depends on this package, and is an optional extra.
        server = importlib.import_module("scen_serve.main")
        server_settings = importlib.import_module("scen_serve.settings")
    except ImportError as err:
        raise ConfigError(
            f"serve: {err.name} is not installed; pip install 'scen-platform[serve]'"
        ) from err
    show_warnings()
    args = server_settings.ServerArgs(
        store=store,
        base=read_config(base=(base or BaseOptions()).settings()).base,
        engine=engine,
        vllm=server_settings.read_vllm(vllm),
        key_file=api_keys,
        model_name=model_name,
        cors_origins=cors_origins,
        max_rows=max_rows,
        max_context=max_context,
        prefix_bytes=prefix_mib << 20,
        log_format=log_format or ("text" if sys.stderr.isatty() else "json"),
        log_level=log_level,
        trace_share=trace_share,
        tracking_uri=tracking_uri,
        trace_text=trace_text,
    )
    address = server.Address(host, port)
    if replicas is None:
        server.serve(args, address, say)
    else:
        server.serve_replicas(args, replicas, address, say)


@command
def demo(
    *,
    store: Annotated[str, Parameter(metavar="URI", help="store for the edits")] = ".scen/demo",
    edits: Annotated[int, POSITIVE, Parameter(metavar="N", help="number of edits")] = 32,
) -> None:
    """32 real edits on SmolLM2-135M-Instruct: answers before and after (minutes on a CPU)

    Trains, evaluates and commits the first edits of the ZsRE sample, then serves
    the store and asks it over HTTP.
    """
    from scen.config import load_config
    from scen.fs import Storage
    from scen.model.weights import EMBEDDED_NAME
    from scen.pipeline.apply import EditJob, apply_edits
    from scen.samples import sample_path

    show_warnings()
    say(f"{edits} real edits: 3 to 6 minutes on 2 CPU cores, seconds if they are committed already")
    storage = Storage(store)
    job = EditJob(str(sample_path("zsre_edits.jsonl")), stream="demo", limit=edits)
    config = load_config(fixed={"base": {"name": EMBEDDED_NAME}})
    report, _ = apply_edits(job, storage, config, local_runtime())
    if not report.waves:
        raise ScenError(f"demo: {store} holds these edits from another run; delete it")
    evaluated = report.waves[-1].evaluated
    lines = storage.read(evaluated["per_edit_path"]).decode().splitlines()
    rows = _sample([json.loads(line) for line in lines])
    _show_answers(rows)
    out.print(report_table(evaluated["report"], f"{report.waves[-1].num_edits} edits"))
    _show_served(store, [row["prompt"] for row in rows[::2]])
    _show_places(store, report)


@contextmanager
def served(store: str) -> Iterator[str]:
    """Serve the store in a subprocess while the block runs; yields its URL. Raises ScenError."""
    port = _free_port()
    command = [sys.executable, "-P", "-m", "scen.cli.main", "serve", "--store", store]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stderr=subprocess.PIPE, text=True, errors="replace"
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url)
        yield url
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _sample(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few of each kind: edits, their rephrases, unrelated prompts."""
    counts = {"reliability": _NUM_EDITS, "generality": _NUM_OTHERS, "locality": _NUM_OTHERS}
    return [
        row
        for kind, count in counts.items()
        for row in [row for row in rows if row["kind"] == kind][:count]
    ]


def _show_answers(rows: Sequence[dict[str, Any]]) -> None:
    """Print prompts with their answers before and after, and which edit answered."""
    cells = (
        (
            row["prompt"],
            shorten(row["before"]),
            Text(escape(row["after"]), "bold green" if row["before"] != row["after"] else ""),
            row["routed_to"] or "none",
        )
        for row in rows
    )
    heads = ("prompt", "before", "after", "edit")
    out.print(make_table(heads, cells, title="Answers before and after"))


def _show_served(store: str, prompts: Sequence[str]) -> None:
    """Serve the store and print its answers to these prompts with and without editing."""
    if not all(importlib.util.find_spec(name) for name in ("scen_serve", "uvicorn")):
        say("the extra `serve` is not installed, so nothing is served")
        return
    say("starting `scen serve` and asking it over HTTP")
    with served(store) as url:
        model = _call(f"{url}/v1/models")["data"][0]["id"]
        rows = []
        for prompt in prompts:
            base, edited = (_ask(url, model, prompt, route) for route in ("off", "auto"))
            rows.append((shorten(prompt, 60), shorten(base[0]), *_cells(*edited)))
    heads = ("prompt", 'scen: {"route": "off"}', "edited", "by edit", "score")
    out.print(make_table(heads, rows, title=f"POST {url}/v1/chat/completions"))
    say("the server has shut down")


def _wait_until_ready(process: "subprocess.Popen[str]", url: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ScenError(f"serve: the server ended: {process.communicate()[1].strip()[-500:]}")
        try:
            _call(f"{url}/readyz")
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise ScenError(f"serve: the server was not ready within {_START_S} s")


def _ask(url: str, model: str, prompt: str, route: str) -> tuple[str, dict[str, Any]]:
    """An answer, and its routing facts (the `scen` field of the response)."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": _ANSWER_TOKENS,
        "scen": {"route": route},
    }
    reply = _call(f"{url}/v1/chat/completions", body)
    return reply["choices"][0]["message"]["content"], reply["scen"]


def _cells(text: str, scen: dict[str, Any]) -> tuple[str, str, str]:
    score = "" if scen["score"] is None else f"{scen['score']:.2f}"
    return shorten(text), scen["edit_id"] or "none", score


def _call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    import urllib.request

    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        value: dict[str, Any] = json.load(reply)
    return value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _show_places(store: str, report: "EditReport") -> None:
    from scen.tracking.client import ui_command

    assert report.tracking_uri is not None
    question = shlex.quote("When was the inception of IAAF Combined Events Challenge?")
    line(f"\nLedger, version {report.version}: {report.store}/ledger")
    line(f"MLflow database: {report.tracking_uri}")
    out.print("Open the MLflow page (then http://127.0.0.1:5000, Model training):")
    line(f"  {ui_command(report.tracking_uri)}")
    out.print("Ask it yourself:")
    line(f"  {_program()} ask {question} --store {shlex.quote(store)} --base-answer")


def _program() -> str:
    """The command to run this program, relative to the current folder if possible."""
    program = Path(sys.argv[0]).absolute()
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here))) if program.is_relative_to(here) else "scen"
