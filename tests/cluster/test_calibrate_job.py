"""`scen calibrate` as a Ray job: a worker does it, the driver has the profile, MLflow is told.

On few edits: whether calibration is any good is asked in tests/e2e/test_second_base.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from cluster.ray_head import Head
from cluster.synthetic_base import World, small_talk, write_synthetic_base
from scen.config import BaseConfig
from scen.data import edits_to_table
from scen.model.base import load_base
from scen.pipeline.job_spec import CalibrateSpec
from scen.snapshot.method import find_profile
from scen_jobs.__main__ import main

pytestmark = [pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(1200)]
EDITS, TALK = 24, 40


@dataclass(frozen=True)
class Found:
    """What the job left: a profile, and the MLflow store that was told."""

    profile: Path
    base: BaseConfig
    told: dict[str, Any]
    tracking_uri: str


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of edits of the synthetic world."""
    path = tmp_path_factory.mktemp("edits") / "seen.parquet"
    pq.write_table(edits_to_table(World.drawn().edits()), path)
    return path


@pytest.fixture(scope="module")
def found(head: Head, edits: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Calibration on the first edits, for a base that has hardly been trained."""
    home = tmp_path_factory.mktemp("calibrated")
    folder = write_synthetic_base(home / "base", World.drawn(), steps=60)
    talk, out = home / "talk.txt", home / "profile.json"
    talk.write_text("\n".join(small_talk()[:TALK]))
    base = BaseConfig(name=str(folder), template="raw", dtype="float32", device="cpu")
    uri = f"sqlite:///{home / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        spec = CalibrateSpec(
            edits=(str(edits),),
            out=str(out),
            limit=EDITS,
            locality=str(talk),
            max_false_activation=0.2,
            base=base,
            cpus=2,
        )
        assert main(["--spec", spec.to_json()], head.address) == 0
    return Found(out, base, json.loads(out.read_text()), uri)


def test_the_profile_says_what_it_was_found_on_and_fits_the_base(found: Found) -> None:
    told = found.told["calibration"]
    assert (told["edits"][0]["file"], told["edits"][0]["edits"]) == ("seen.parquet", EDITS)
    assert told["figures"]["bound"] == 0.2
    kinds = {row["kind"] for row in told["figures"]["kinds"]}
    assert {"rephrases, given", "unrelated"} <= kinds
    assert 0 < found.told["expert"]["layer"] < 7
    base = load_base(str(found.base.name), template="raw", dtype="float32", device="cpu")
    assert find_profile(str(found.profile), base) is not None


def test_mlflow_has_the_run_with_its_plots_and_the_profile(found: Found) -> None:
    client = MlflowClient(found.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name LIKE 'calibration/%'")
    (run,) = client.search_runs([experiment.experiment_id])
    figures = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
    assert figures == {f"figures/{name}.png" for name in ("operating_curve", "efficacy_by_layer")}
    kept = {Path(f.path).name for f in client.list_artifacts(run.info.run_id, "profile")}
    assert kept == {"profile.json", "profile.safetensors"}
    assert run.data.params["expert.layer"] == str(found.told["expert"]["layer"])
    assert 0 <= run.data.metrics["calibration/auc"] <= 1


def test_errors_of_calibration_reach_the_driver(
    head: Head, edits: Path, found: Found, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none.json"
    spec = CalibrateSpec(
        edits=(str(edits),), out=str(out), limit=6, base=found.base, tracking=False
    )
    assert main(["--spec", spec.to_json()], head.address) == 3
    assert "--edits: 6 usable edits" in capfd.readouterr().err
    assert not out.exists()
