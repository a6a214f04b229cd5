"""`scen register`, and what `scen edit` registers by itself."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from scen.cli.main import main
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from unit.cli.test_commands import ROWS, SMALL, base_flags, edited, store, told, write_rows
from unit.tracking.conftest import client, tracking_uri

__all__ = ["base_flags", "client", "edited", "store", "tracking_uri"]  # fixtures


def test_it_shows_the_registered_versions(
    store: str, tracking_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("register", "--store", store, "--tracking-uri", tracking_uri, "--name", "Told")
    assert main([*argv, "--version", "0"]) == 0
    shown = capsys.readouterr()
    assert "· version 0 is model version 1\n· version 1 is model version 2\n" in shown.err
    assert "· champion: model version 2 (it was none)" in shown.err
    assert 'mlflow.pyfunc.load_model("models:/Told@champion")' in shown.out
    rows = [line.split("│")[1:-1] for line in shown.out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["2", "champion", "version 1", "now"],
        ["1", "previous", "version 0", "now"],
    ]
    assert told(capsys, *argv) == {
        "store": store,
        "tracking_uri": tracking_uri,
        "model": "Told",
        "version": 1,
        "made": [],
        "aliases": {
            "champion": {"number": 2, "version": 1, "wave": None},
            "previous": {"number": 1, "version": 0, "wave": None},
        },
    }
    assert open_ledger(Storage(store)).version() == 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--name", "a/b"], 2, "--name: 'a/b' must be letters"),
        (["--version", "7"], 5, "version"),
        (["--tracking-uri", "http://127.0.0.1:9"], 2, "tracking.uri: MLflow cannot open"),
    ],
)
def test_what_it_refuses(
    store: str,
    tracking_uri: str,
    words: list[str],
    code: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = ["--tracking-uri", tracking_uri]
    assert main(["register", "--store", store, *uri, *words]) == code
    assert text in capsys.readouterr().err


@pytest.mark.slow
def test_edit_registers_each_version_that_it_commits(
    tmp_path: Path,
    base_flags: tuple[str, ...],
    tracking_uri: str,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    folder = str(tmp_path / "followed")
    file = write_rows(tmp_path / "edits.jsonl", ROWS)
    few = ("--wave-size", "2", "--set", "expert.steps=3", *SMALL)
    argv = ("edit", file, "--store", folder, *base_flags, *few)
    assert told(capsys, *argv)["model"] == "scen-followed"
    model = client.get_registered_model("scen-followed")
    assert model.aliases == {"champion": 2, "previous": 1}
    stream = client.get_experiment_by_name("stream/edits")
    assert stream is not None
    runs = client.search_runs([stream.experiment_id], "tags.`edit.kind` = 'wave'")
    found = {run.info.run_id for run in runs}
    versions = client.search_model_versions("name = 'scen-followed'")
    assert {version.run_id for version in versions} == found
    assert {version.tags["scen.version"] for version in versions} == {"1", "2"}
    assert told(capsys, "register", "--store", folder)["made"] == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert told(capsys, *argv)["model"] is None
