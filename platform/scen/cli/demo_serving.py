"""The end of `scen demo`: a server of its own, asked over HTTP with and without editing."""

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.table import Table
from rich.text import Text

from scen.cli.output import out, say
from scen.cli.render import shorten
from scen.errors import ScenError

_START_S, _END_S, _ANSWER_TOKENS = 120, 40, 32


def show_served(store: str, prompts: Sequence[str]) -> None:
    """Serve the store, ask these prompts with and without editing, and shut the server down."""
    if (
        importlib.util.find_spec("scen_serve") is None
        or importlib.util.find_spec("uvicorn") is None
    ):
        say("the extra `serve` is not installed, so nothing is served")
        return
    say("starting `scen serve` and asking it over HTTP")
    with served(store) as url:
        model = _call(f"{url}/v1/models")["data"][0]["id"]
        table = Table(title=f"POST {url}/v1/chat/completions", title_justify="left")
        for name in ("prompt", 'scen: {"route": "off"}', "edited", "by edit", "score"):
            table.add_column(name, overflow="fold")
        for prompt in prompts:
            base, edited = (_ask(url, model, prompt, route) for route in ("off", "auto"))
            table.add_row(*map(Text, (shorten(prompt, 60), shorten(base[0]), *_cells(*edited))))
        out.print(table)
    say("the server is shut down")


@contextmanager
def served(store: str) -> Iterator[str]:
    """The address of a server of the store, which ends afterwards. Raises ScenError."""
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


def _wait_until_ready(process: "subprocess.Popen[str]", url: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ScenError(f"serve: the server ended: {process.communicate()[1].strip()[-500:]}")
        try:
            _call(f"{url}/readyz")
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise ScenError(f"serve: the server was not ready within {_START_S} s")


def _ask(url: str, model: str, prompt: str, route: str) -> tuple[str, dict[str, Any]]:
    """An answer, and what is told of the edit behind it."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": _ANSWER_TOKENS,
        "scen": {"route": route},
    }
    told = _call(f"{url}/v1/chat/completions", body)
    return told["choices"][0]["message"]["content"], told["scen"]


def _cells(text: str, scen: dict[str, Any]) -> tuple[str, str, str]:
    score = "" if scen["score"] is None else f"{scen['score']:.2f}"
    return shorten(text), scen["edit_id"] or "none", score


def _call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as told:
        found: dict[str, Any] = json.load(told)
    return found


def _free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])
