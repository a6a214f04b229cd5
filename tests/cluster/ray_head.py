"""Starts a Ray head as a child process, and ends it with all that it started."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

_PORTS = (
    "port",
    "dashboard-port",
    "metrics-export-port",
    "dashboard-agent-listen-port",
    "ray-client-server-port",
)
_START_LIMIT_S = 180
_STARTS = 3


@dataclass(frozen=True)
class Head:
    """`address` for drivers, `dashboard` for the Jobs API, `metrics` for Prometheus, and its first
    process."""

    address: str
    dashboard: str
    metrics: str
    pid: int

    def workers(self) -> list[psutil.Process]:
        """The processes of Ray Train workers."""
        return self._processes("RayTrainWorker")

    def registries(self) -> list[psutil.Process]:
        """The processes of stores' registries."""
        return self._processes("MeteredRegistry")

    def _processes(self, name: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found


def settle_environment() -> Path:
    """A short folder for a head's files, and what Ray must find in the environment of the head and
    of all drivers: before anything imports ray, as a driver that read other settings hangs."""
    home = Path(
        tempfile.mkdtemp(prefix="r")
    )  # names of sockets end at 107 bytes; Ray adds about 60
    token = home / "token"
    token.touch(0o600)
    token.write_text(uuid.uuid4().hex)
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray listens on every address of the host
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "RAY_memory_monitor_refresh_ms": "0",  # else it ends our workers when others take memory
        "RAY_worker_niceness": "0",  # 15 by default: on a busy machine workers hardly move
    }
    os.environ.pop("RAY_ADDRESS", None)
    return home


def start_head(home: Path, cpus: int = 4) -> tuple[subprocess.Popen[bytes], Head]:
    """A head whose files lie under `home`; returns when it answers. `cpus` are logical.

    Tried again where it ends by itself: on a busy machine one of its parts may be too slow for
    another, and Ray then gives all of them up.
    """
    for attempt in range(_STARTS):
        found = _start_once(home / str(attempt), cpus)
        if found is not None:
            return found
    raise RuntimeError((home / str(_STARTS - 1) / "head.log").read_text()[-3000:])


def _start_once(home: Path, cpus: int) -> tuple[subprocess.Popen[bytes], Head] | None:
    home.mkdir()
    ports = {name: _free_port() for name in _PORTS}
    flags = [f"--{name}={port}" for name, port in ports.items()]
    log = home / "head.log"
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *(f"--num-cpus={cpus}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
        *("--disable-usage-stats", "--object-store-memory=100000000"),
        *("--include-log-monitor=false", f"--temp-dir={home / 'r'}", *flags),
    ]
    # Ray gives a worker a thread per CPU otherwise, and sums in another order are other sums.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)
    dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
    metrics = f"http://127.0.0.1:{ports['metrics-export-port']}/metrics"
    head = Head(f"127.0.0.1:{ports['port']}", dashboard, metrics, process.pid)
    end = time.monotonic() + _START_LIMIT_S
    agent = f"http://127.0.0.1:{ports['dashboard-agent-listen-port']}"
    waiting = [f"{dashboard}/api/gcs_healthz", f"{agent}/api/local_raylet_healthz"]
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(waiting[0], timeout=1).close()
            waiting.pop(0)
            if not waiting:
                return process, head
        time.sleep(0.2)
    stop_tree(process)
    return None


def stop_tree(process: subprocess.Popen[bytes], grace_s: float = 3) -> None:
    """End a process and all of its children; never anybody else's Ray."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        tree = [root, *root.children(recursive=True)]
        process.terminate()
        for survivor in psutil.wait_procs(tree, timeout=grace_s)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
    process.wait()


def _free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])
