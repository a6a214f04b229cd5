"""The main job on the embedded base: real edits in, committed, tracked, and answered."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from scen.cli.main import main

pytestmark = pytest.mark.e2e
PROMPT = "When was the inception of IAAF Combined Events Challenge?"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    """The JSON object that a command prints."""
    assert main([*argv, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_eight_real_edits_from_file_to_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scen.samples import sample_path

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = str(tmp_path / "store")
    edits = str(sample_path("zsre_edits.jsonl"))
    limits = ("--limit", "8", "--set", "evaluation.locality_limit=16")
    done = run(capsys, "edit", edits, "--store", store, "--stream", "real", *limits)
    assert (done["version"], done["committed"], done["rejected"]) == (1, 8, 0)

    report = run(capsys, "eval", "--store", store, "--set", "evaluation.locality_limit=16")
    assert report["n_edits"] == 8
    assert report["version"] == 1
    assert report["reliability"] == 1.0
    assert report["generality"]["orig"] >= 0.75  # type: ignore[index]
    assert report["locality_unchanged"] == 1.0
    assert report["logits_identical"] == 1.0
    assert report["teacher_forced"]["reliability_after"] > 0.99  # type: ignore[index]
    assert Path(str(report["per_edit_path"])).is_file()

    told = run(capsys, "ask", PROMPT, "--store", store, "--base-answer")
    assert (told["answer"], told["edit_id"], told["version"]) == ("2006", "zsre-0000", 1)
    assert told["base_answer"] != "2006"
    before = run(capsys, "ask", PROMPT, "--store", store, "--version", "0")
    assert (before["route"], before["answer"]) == ("base", told["base_answer"])

    client = MlflowClient(str(done["tracking_uri"]))
    experiment = client.get_experiment_by_name("stream/real")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`edit.wave` = '0'")
    assert runs[0].data.metrics["eval/reliability_after"] == 1.0
    assert any(a.path.endswith(".json") for a in client.list_artifacts(runs[0].info.run_id))
