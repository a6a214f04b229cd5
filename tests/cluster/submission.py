"""Command lines of `scen submit` for edits of the wave case, and what becomes of the jobs."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.wave_case import EDITS
from scen.cli.main import main
from scen.cluster.jobs import JobClient
from scen.records import Edit, edit_to_dict

SETTINGS = ["expert.layer=3", "expert.steps=4", "evaluation.max_new_tokens=6",
            "evaluation.locality_limit=2", "cluster.workers=2", "router.profile=none"]  # fmt: skip
_LIMIT_S = 300.0


def write_edits(path: Path, edits: Sequence[Edit] = EDITS[:6]) -> Path:
    """A file of edits."""
    path.write_text("".join(json.dumps(edit_to_dict(edit)) + "\n" for edit in edits))
    return path


def edit_words(file: Path, base: Path, *settings: str) -> list[str]:
    """The words of `scen edit` on a store beside the file; `settings` come after `SETTINGS`."""
    told = [word for one in (*SETTINGS, *settings) for word in ("--set", one)]
    store = ["--store", str(file.parent / "store"), "--base", str(base)]
    return [str(file), *store, "--template", "llama2-inst", "--dtype", "float32", *told]


def submit_words(words: Sequence[str], dashboard: str, *more: str) -> list[str]:
    """The same as a submission that answers in JSON."""
    where = ["--address", dashboard, "--python", sys.executable, "--device", "cpu", "--json"]
    return ["submit", *words, *where, *more]


def submit(words: Sequence[str], capfd: Any) -> dict[str, Any]:
    """What a submission says."""
    assert main(list(words)) == 0
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def wait_for_end(dashboard: str, job: str) -> str:
    """The status in which a job ended."""
    client, end = JobClient(dashboard), time.monotonic() + _LIMIT_S
    while time.monotonic() < end:
        [status] = [one["status"] for one in client.jobs() if one["job"] == job]
        if status not in ("PENDING", "RUNNING"):
            return str(status)
        time.sleep(0.5)
    raise AssertionError(f"{job} does not end")
