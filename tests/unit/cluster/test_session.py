"""A cluster that refuses, or is not there: told in words, with what to do."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

DRIVER = """
import sys
from scen.cluster.session import ray_session
from scen.errors import ConfigError
try:
    with ray_session(sys.argv[1]):
        pass
except ConfigError as err:
    sys.exit(f"refused: {err}")
"""
SCEN = "import sys; from scen.cli.main import main; sys.exit(main(sys.argv[1:]))"


class Guarded(BaseHTTPRequestHandler):
    """A dashboard that takes no token: 401 without, 403 with one. Below /page it is some other web
    server."""

    def do_GET(self) -> None:
        """Answer as such a dashboard does."""
        status = 403 if self.headers.get("Authorization") else 401
        if self.path.startswith("/page"):
            status = 200
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"<p>hello</p>" if status == 200 else b"no")

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def dashboard() -> Iterator[str]:
    """The address of a `Guarded` one."""
    with HTTPServer(("127.0.0.1", 0), Guarded) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def run(code: str, home: Path, *words: str, **environment: str) -> tuple[int, str]:
    """Exit status and stderr of a process in whose environment no token is but those given: Ray
    reads them once per process."""
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
    told = inherited | {"HOME": str(home)} | environment
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words],
        env=told, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_without_a_token_the_error_names_its_path(dashboard: str, tmp_path: Path) -> None:
    status, said = run(SCEN, tmp_path, "jobs", "--address", dashboard)
    assert (status, "Traceback" in said) == (2, False)
    told = ("RAY_AUTH_TOKEN_PATH", "ray get-auth-token --generate", "RAY_AUTH_MODE=disabled")
    assert [word for word in told if word not in said] == []


def test_a_wrong_token_is_an_error(dashboard: str, tmp_path: Path) -> None:
    status, said = run(SCEN, tmp_path, "stop", "scen-x", "--address", dashboard,
                       RAY_AUTH_TOKEN="another")  # fmt: skip
    assert (status, "Traceback" in said) == (2, False)
    assert "Authentication failed: no; name the file with the cluster's token" in said


def test_another_web_server_is_no_dashboard(dashboard: str, tmp_path: Path) -> None:
    status, said = run(SCEN, tmp_path, "jobs", "--address", f"{dashboard}/page",
                       RAY_AUTH_MODE="disabled")  # fmt: skip
    assert (status, "Traceback" in said) == (2, False)
    assert "no Ray dashboard answers at" in said


def test_a_driver_fails_at_once(tmp_path: Path) -> None:
    status, said = run(DRIVER, tmp_path, "127.0.0.1:9", RAY_AUTH_TOKEN="any")
    assert status == 1
    assert "refused: --address: no Ray cluster can be reached at 127.0.0.1:9" in said
    assert "Connection refused" in said


def test_a_driver_without_a_token_gets_an_error(dashboard: str, tmp_path: Path) -> None:
    status, said = run(DRIVER, tmp_path, dashboard.removeprefix("http://"))
    assert status == 1
    assert "no authentication token was found; name the file with the cluster's token" in said
