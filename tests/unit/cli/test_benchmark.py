"""`scen benchmark` on the tiny base, from the file to the tables."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from conftest import WORDS
from scen.cli.main import main

pytestmark = pytest.mark.slow

EXPERT = {"layer": 3, "lr": 0.05, "steps": 40}


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'm' / 'mlflow.db'}")
    edits = [
        {"id": f"e{i}", "prompt": f"Who founded {w}?", "target": WORDS[9 - i]}
        for i, w in enumerate(WORDS[:5])
    ]
    platform = {"editor": "platform", "settings": {"expert": EXPERT}}
    given = {
        "name": "small",
        "base": {
            "name": str(tiny_folder),
            "template": "llama2-inst",
            "dtype": "float32",
            "device": "cpu",
        },
        "edits": lines(tmp_path / "edits.jsonl", edits),
        "unrelated": lines(tmp_path / "other.jsonl", [{"prompt": "What is a fjord?"}]),
        "sizes": [3],
        "validation": {"skip": 3, "count": 2},
        "latency_prompts": 2,
        "upstream_limit": 2,
        "methods": [
            {"name": "nothing", "editor": "base"},
            {"name": "platform", **platform, "grid": {"expert": [EXPERT, {"layer": 2}]}},
        ],
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    return path


def test_tables_files_and_mlflow_agree(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", str(config), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in told["rows"]] == ["nothing", "platform"]
    assert [row["figures"]["reliability"] for row in told["rows"]] == [0, 1]
    tables = (tmp_path / ".scen" / "benchmark" / "small" / "tables.md").read_text()
    assert str(tmp_path) in told["tables"]
    assert "| platform | 100.0 |" in tables
    client = MlflowClient(told["tracking_uri"])
    [experiment] = client.search_experiments(filter_string="name = 'benchmark/small'")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {"small", "nothing, T=3", "platform, T=3"}

    assert main(["benchmark", str(config), "--method", "platform", "--no-tracking"]) == 0
    shown = capsys.readouterr()
    assert "platform" in shown.out
    assert "nothing" not in shown.out
    assert "ask" not in shown.err  # the row was kept


def test_tuning_prints_the_best_settings(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", str(config), "--tune", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["best"]) == {"platform"}
    assert [trial["settings"]["expert"] for trial in told["trials"]] == [EXPERT, {"layer": 2}]


def test_an_unknown_method_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", str(config), "--method", "rome"]) == 2
    assert "--method: 'rome' is none of nothing, platform" in capsys.readouterr().err
