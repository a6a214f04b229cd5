"""`scen serve --replicas` starts a Ray of its own, answers, and takes it down again."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.ray_head import stop_tree
from scen.snapshot.open import OpenStore
from unit.serve.conftest import alone, serve_edits, store

__all__ = ["store"]  # a fixture

pytestmark = pytest.mark.cluster


def test_it_answers_and_leaves_nothing_behind(store: OpenStore, tmp_path: Path) -> None:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    command = [sys.executable, "-P", "-m", "scen.cli.main", "serve", "--store", store.storage.uri]
    with (tmp_path / "log").open("wb") as log, (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--model-name", "tiny", "--replicas", "1:2"],
            stdout=out,  # Ray's own words
            stderr=log,
            start_new_session=True,
        )
    try:
        while "serving" not in (tmp_path / "log").read_text():
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        edit = serve_edits(1, 5)[0]
        raw = store.base.template.render(edit.prompt)
        body = {"model": "tiny", "prompt": raw, "max_tokens": 24}
        told = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=60)
        assert told.json()["choices"][0]["text"] == alone(store, edit.prompt)
        while '"event": "request"' not in (tmp_path / "log").read_text():
            time.sleep(0.2)  # Ray brings the lines of replicas
        tree = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert psutil.wait_procs(tree, timeout=20)[1] == []
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        [asked] = [line for line in lines if line["event"] == "request"]
        assert (asked["edit_id"], asked["status"], asked["key"]) == (edit.id, 200, "anyone")
    finally:
        stop_tree(process)
