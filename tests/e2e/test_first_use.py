"""A base that nobody knows is calibrated before its first edit: SmolLM2 with one weight changed, so
that the shipped profile is not its own."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from scen.cli.main import main
from scen.fs import Storage
from scen.ledger.manifest import read_manifest
from scen.model.base import resolve_base
from scen.model.weights import EMBEDDED_NAME, MARKER
from scen.pipeline import runtime
from scen.samples import sample_path

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the base."""
    folder = tmp_path_factory.mktemp("unknown") / "base"
    shutil.copytree(resolve_base(EMBEDDED_NAME), folder)
    (folder / MARKER).unlink()
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.timeout(1800)  # minutes, beside another test process
def test_edits_on_an_unknown_base(
    unknown: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SCEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SCEN_PROFILE", raising=False)
    # That of SmolLM2 would be taken over.
    monkeypatch.setattr(runtime, "known_profiles", lambda: iter(()))
    file, store = str(sample_path("zsre_edits.jsonl")), str(tmp_path / "store")
    command = ["edit", file, "--limit", "16", "--no-tracking", "--json", "--base", str(unknown)]
    assert main([*command, "--store", store]) == 0
    told = capsys.readouterr()
    assert "calibrating on 2700 prompts: about" in told.err
    profile = read_manifest(Storage(store)).profile
    assert (profile["how"], profile["source"], profile["edits"]) == ("quick", "cache", 900)
    figures = profile["figures"]
    assert figures["rephrases"] >= 0.65  # of encoders that were fitted on half of the edits
    assert figures["near_misses"] >= 0.8
    assert figures["same_kind"] >= 0.95
    report = json.loads(told.out)["waves"][0]["evaluated"]["report"]
    assert report["reliability"] == 1.0
    assert report["routing"]["rephrase_to_own_edit"] >= 0.85
    assert report["routing"]["wrong_edit"] <= 0.02
    assert report["routing"]["false_activation_locality"] == 0.0
    assert report["logits_identical"] == 1.0
    assert main([*command, "--store", str(tmp_path / "second")]) == 0
    assert "calibrating" not in capsys.readouterr().err
    assert read_manifest(Storage(str(tmp_path / "second"))).profile == profile
