"""Where the history lives, and the command that shows it. Knows MLflow's addresses, not MLflow."""

import os
import shlex
import sys
from pathlib import Path


def default_tracking_uri(store_path: Path | None) -> str:
    """MLFLOW_TRACKING_URI where set, else a sqlite file in the local store, else in the cwd."""
    from_environment = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if from_environment:
        return from_environment
    if store_path is None:
        return "sqlite:///mlflow.db"
    return f"sqlite:///{store_path.resolve() / 'mlflow' / 'mlflow.db'}"


def sqlite_path(uri: str) -> Path | None:
    """The database file of a sqlite URI; None for every other kind, and for one in memory."""
    scheme, _, rest = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite":
        return None
    name = rest.partition("?")[0]
    return Path(name) if name not in ("", ":memory:") else None


def ui_command(uri: str) -> str:
    """The shell command that opens the history in a browser or serves the page for one."""
    if uri.startswith(("http://", "https://")):
        return f"{_python()} -m webbrowser {shlex.quote(uri)}"
    # Job execution starts seven more processes that this page never uses.
    return (
        f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {_python()} -m mlflow ui"
        f" --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1 --port 5000 --workers 1"
    )


def _python() -> str:
    """This interpreter, as short as the current folder allows."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return shlex.quote(str(python))
