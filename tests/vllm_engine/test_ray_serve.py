"""A replica on Ray Serve whose engine is vLLM: it answers, follows the store and ends in order."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster.ray_head import stop_tree
from scen.snapshot.open import OpenStore
from unit.serve.conftest import alone, commit_wave, make_store, serve_edits, unrelated
from vllm_engine.conftest import ON_CPU

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@dataclass(frozen=True)
class Running:
    """`scen serve --replicas` as a process, its URL and its log."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def ask(self, prompt: str) -> dict[str, Any]:
        """The reply to a chat of one prompt."""
        messages = [{"role": "user", "content": prompt}]
        body = {"model": "tiny", "messages": messages, "max_tokens": 24}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        reply: dict[str, Any] = answer.json()
        return reply


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> OpenStore:
    """The store of 32 edits on a base that vLLM runs."""
    return make_store(folder, tmp_path / "store")


@pytest.fixture
def running(store: OpenStore, tmp_path: Path) -> Iterator[Running]:
    """One replica."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"--vllm={name}={json.dumps(value)}" for name, value in ON_CPU.items()]
    command = [
        *(sys.executable, "-P", "-m", "scen.cli.main", "serve", "--store", store.storage.uri),
        *("--port", str(port), "--model-name", "tiny", "--replicas", "1", "--max-rows", "8"),
        *("--max-context", "256", "--log-format", "text", "--engine", "vllm", *options),
    ]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        while f"serving {store.storage.uri}" not in log.read_text():
            assert process.poll() is None, log.read_text()[-5000:]
            time.sleep(0.5)
        yield Running(process, f"http://127.0.0.1:{port}", log)
    finally:
        stop_tree(process)


def test_a_replica_answers_follows_and_ends(running: Running, store: OpenStore) -> None:
    edit, other, new = serve_edits(1, 5)[0], unrelated(1)[0], serve_edits(1, 40)[0]
    for prompt, edit_id in ((edit.prompt, edit.id), (other, None)):
        reply = running.ask(prompt)
        assert (reply["scen"]["version"], reply["scen"]["edit_id"]) == (2, edit_id)
        assert reply["choices"][0]["message"]["content"] == alone(store, prompt)
    commit_wave(store, [new], 2)
    until = time.monotonic() + 60
    while (reply := running.ask(new.prompt))["scen"]["version"] != 3:
        assert time.monotonic() < until
    assert reply["choices"][0]["message"]["content"] == alone(store, new.prompt)
    tree = psutil.Process(running.process.pid).children(recursive=True)
    assert any("ServeReplica" in " ".join(process.cmdline()) for process in tree)
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(120) == 0
    assert psutil.wait_procs(tree, timeout=30)[1] == []  # vLLM's processes among them
