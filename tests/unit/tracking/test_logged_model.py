"""A logged model in a process that knows nothing but MLflow's address and the model's name."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scen.ledger.actions import About, Revoke
from scen.pipeline.models import sync_models
from scen.snapshot.open import OpenStore
from unit.serve.conftest import serve_edits, store, unrelated
from unit.tracking.conftest import tracking_uri

pytestmark = pytest.mark.slow

__all__ = ["store", "tracking_uri"]  # fixtures
LENGTH = 24
PROMPTS = [edit.prompt for edit in serve_edits(32)][::9] + unrelated(1)
DRIVER = Path(__file__).parent / "fresh_model.py"


def engine(store: OpenStore, version: int) -> list[dict[str, Any]]:
    """What a version answers to each prompt, in the form of the model's rows."""
    model = store.at(store.ledger.snapshot(version))
    return [
        {
            "answer": reply.answer,
            "edit_id": reply.edit_id,
            "version": reply.version,
            "score": pytest.approx(reply.score, abs=1e-4),
        }
        for reply in (model.ask(prompt, LENGTH) for prompt in PROMPTS)
    ]


def in_a_fresh_process(store: OpenStore, tracking_uri: str, name: str, cwd: Path) -> dict[str, Any]:
    """What the driver finds; it moves the store."""
    moved = [str(store.storage.local_path), str(cwd / "moved")]
    arguments = json.dumps([name, PROMPTS, LENGTH, moved])
    strict = {"MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(
        [sys.executable, "-P", str(DRIVER), arguments],
        env=os.environ | strict,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return results


def test_it_gives_the_engine_s_answers(store: OpenStore, tracking_uri: str, tmp_path: Path) -> None:
    sync_models(store.storage, tracking_uri, "Fresh")
    store.ledger.settle(Revoke(["edit-0"], About("wrong")))
    sync_models(store.storage, tracking_uri, "Fresh")
    champion, previous = engine(store, 3), engine(store, 2)
    results = in_a_fresh_process(store, tracking_uri, "Fresh", tmp_path)
    assert results["champion"] == champion
    assert results["previous"] == previous
    spoke = [[row["edit_id"] for row in results[name]] for name in ("previous", "champion")]
    assert spoke[0] == ["edit-0", "edit-9", "edit-18", "edit-27", None]
    assert spoke[1] == [None, *spoke[0][1:]]
    assert results["moved"] == results["table"] == results["champion"]
    assert len(results["example"]) == 1
    assert len(results["short"][0]["answer"]) == 1  # a token of the tiny base is a byte
    assert results["wrong"].startswith("InputError: prompt: no column has this name")
    assert results["none"].startswith("ConfigError: max_new_tokens: 0")
    assert results["gone"].startswith("NotFoundError: store: there is no ledger at")
