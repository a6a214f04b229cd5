"""Calibration of a second base, trained here: it works for edits that were not seen.

One short gate in place of three long ones, which the base does not need; `scen calibrate` itself,
as a job, is in tests/cluster/test_calibrate_job.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.synthetic_base import World, small_talk, write_synthetic_base
from scen.calibration.calibrate import Calibration, calibrate
from scen.calibration.fit_router import RouterPlan
from scen.cli.main import main
from scen.model.base import load_base
from scen.records import edit_to_dict
from scen.snapshot.method import save_profile

pytestmark = pytest.mark.e2e
CALIBRATED_ON = 100
PLAN = RouterPlan(bound=0.05, gate_steps=400, num_gates=1)


@dataclass(frozen=True)
class Found:
    """A calibration, its profile as a file, the words that name the base, and other edits."""

    calibration: Calibration
    profile: Path
    base: list[str]
    unseen: Path


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Calibration on 100 edits; 35 others are left."""
    home = tmp_path_factory.mktemp("second")
    world = World.drawn()
    folder = write_synthetic_base(home / "base", world)
    base = load_base(str(folder), template="raw", dtype="float32", device="cpu")
    edits = world.edits()
    calibration = calibrate(base, [edits[:CALIBRATED_ON]], small_talk(), {}, PLAN)
    profile, unseen = home / "profile.json", home / "unseen.jsonl"
    save_profile(calibration.profile, profile)
    rows = [json.dumps(edit_to_dict(edit)) + "\n" for edit in edits[CALIBRATED_ON:]]
    unseen.write_text("".join(rows), encoding="utf-8")
    words = ["--base", str(folder), "--template", "raw", "--dtype", "float32", "--device", "cpu"]
    return Found(calibration, profile, words, unseen)


def test_the_router_and_the_experts_are_good_where_it_was_fitted(found: Found) -> None:
    told = found.calibration.profile.calibration
    kinds = {row["kind"]: row for row in told["figures"]["kinds"]}
    assert kinds["rephrases, given"]["right"] >= 0.9
    assert kinds["unrelated"]["wrong"] <= 0.01
    assert told["figures"]["bound"] == 0.05
    assert told["expert"]["reliability"] >= 0.95
    assert 0 < found.calibration.profile.expert["layer"] < 7
    assert found.calibration.figures.metrics()["calibration/auc"] > 0.95


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
