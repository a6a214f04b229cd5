"""A real MLflow server on a free port of this machine, ended with all of its processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S, STOP_S = 180, 10


@contextmanager
def mlflow_server(folder: Path, log: Path) -> Iterator[str]:
    """The URL of a server whose database and artifacts lie in a folder, as long as the block lasts.
    Raises RuntimeError with the end of its log where it does not start."""
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder.resolve() / 'mlflow.db'}", "--workers", "1"),
        *("--artifacts-destination", str(folder.resolve() / "artifacts")),
    ]
    # Job execution starts seven more processes that nothing here uses.
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("w") as file:
        server = subprocess.Popen(
            command, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/health", server, log)
        yield url
    finally:
        _stop(server)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.2)
    raise RuntimeError(f"MLflow did not start: {log.read_text()[-3000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    # The whole group: the parent of the workers does not end them.
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S)
