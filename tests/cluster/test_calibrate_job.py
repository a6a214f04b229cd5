"""A second base through calibration as a Ray job: it works for edits that were not seen."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from cluster.ray_head import Head
from cluster.synthetic_base import World, small_talk, write_synthetic_base
from scen.cli.main import main
from scen.ingest import edits_to_table
from scen_jobs import run_calibrate

pytestmark = [pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(1800)]
_CALIBRATED_ON = 100


@dataclass(frozen=True)
class Found:
    """A calibration: its profile, and the MLflow store that was told."""

    profile: Path
    base: list[str]
    unseen: Path
    told: dict[str, Any]
    tracking_uri: str


@pytest.fixture(scope="module")
def found(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Calibration on 100 edits of a base that was trained here; 35 others are left."""
    home = tmp_path_factory.mktemp("second")
    world = World.drawn()
    folder = write_synthetic_base(home / "base", world)
    seen, unseen, talk = home / "seen.parquet", home / "unseen.parquet", home / "talk.txt"
    edits = world.edits()
    pq.write_table(edits_to_table(edits[:_CALIBRATED_ON]), seen)
    pq.write_table(edits_to_table(edits[_CALIBRATED_ON:]), unseen)
    talk.write_text("\n".join(small_talk()))
    base = ["--base", str(folder), "--template", "raw", "--dtype", "float32", "--device", "cpu"]
    uri = f"sqlite:///{home / 'mlflow.db'}"
    out = home / "profile.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        arguments = ["--edits", str(seen), "--locality", str(talk), "--out", str(out)]
        bound = ["--max-false-activation", "0.05", "--cpus", "2"]
        assert run_calibrate.main([*arguments, *bound, *base], head.address) == 0
    return Found(out, base, unseen, json.loads(out.read_text()), uri)


def test_the_profile_says_what_was_found_on_what(found: Found) -> None:
    told = found.told["calibration"]
    assert told["edits"][0]["file"] == "seen.parquet"
    assert told["edits"][0]["edits"] == _CALIBRATED_ON
    kinds = {row["kind"]: row for row in told["figures"]["kinds"]}
    assert kinds["rephrases, given"]["right"] >= 0.9
    assert kinds["unrelated"]["wrong"] <= 0.01
    assert told["figures"]["bound"] == 0.05
    assert told["expert"]["reliability"] >= 0.95
    assert 0 < found.told["expert"]["layer"] < 7


def test_unseen_edits_work_with_it_and_nothing_set_by_hand(
    found: Found, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(tmp_path / "store"), "--profile", str(found.profile)]
    capsys.readouterr()
    assert main(["edit", str(found.unseen), *store, "--no-tracking", "--json", *found.base]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["committed"] == 35
    report = summary["waves"][0]["evaluated"]["report"]
    assert report["reliability"] >= 0.95
    assert report["generality"]["given"] >= 0.85
    assert report["routing"]["wrong_edit"] <= 0.03
    assert report["routing"]["false_activation_near_miss"] <= 0.1
    assert report["logits_identical"] == 1.0


def test_mlflow_has_the_run_with_its_plots_and_the_profile(found: Found) -> None:
    client = MlflowClient(found.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name LIKE 'calibration/%'")
    (run,) = client.search_runs([experiment.experiment_id])
    figures = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
    assert figures == {f"figures/{name}.png" for name in ("operating_curve", "efficacy_by_layer")}
    kept = {Path(f.path).name for f in client.list_artifacts(run.info.run_id, "profile")}
    assert kept == {"profile.json", "profile.safetensors"}
    assert run.data.params["expert.layer"] == str(found.told["expert"]["layer"])
    assert run.data.metrics["calibration/auc"] > 0.95


def test_what_calibration_refuses_is_told_by_the_driver(
    head: Head, found: Found, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none.json"
    arguments = ["--edits", str(found.unseen), "--limit", "6", "--out", str(out), *found.base]
    assert run_calibrate.main([*arguments, "--no-tracking"], head.address) == 3
    assert "--edits: 6 usable edits" in capfd.readouterr().err
    assert not out.exists()
